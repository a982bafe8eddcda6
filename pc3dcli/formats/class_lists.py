# SPDX-License-Identifier: Apache-2.0
"""Lists of classes: the two ScanNet benchmarks (tables in this folder) and lists that a user brings.

A table is tab-separated with the header `id name instance` (any order, `group` optional); a plain list is one name per
line, the class id being the 0-based line (ScanNet++).  Lines that start with `#` are comments in tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pc3dcli.errors import FormatError, InputError, UsageError
from pc3dcli.formats.integer_text import parse_integer

UNLISTED = 9999  # label id of what no list names; ours
_TABLES = {"scannet": "scannet20_classes.tsv", "scannet200": "scannet200_classes.tsv"}


@dataclass(frozen=True)
class ClassList:
    """Classes that are scored as instances, in the order of their list.

    source  "scannet", "scannet200" or the name of the user's file
    ids     label ids
    names   their names, unique
    groups  "head", "common", "tail" or the user's group of each class, "" for none; empty where the list has none
    """

    source: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()


def label_id(name: str, label_ids: Mapping[str, int]) -> int:
    """Return the label id of a name that a data set gives its classes, whatever its case; `UNLISTED` without one."""
    return label_ids.get(name.strip().lower(), UNLISTED)


def semantic_classes(source: str) -> ClassList:
    """Return all classes of a benchmark ("scannet", "scannet200") or of a user's list, those that are no instances too.

    raises  UsageError for an unknown name, InputError for a missing file, FormatError for a malformed list
    """
    return ClassList(*_list_of(source, only_instances=False))


def instance_classes(source: str, instance_names: Path | None = None) -> ClassList:
    """Return the instance classes of a benchmark or of a user's list.

    source          "scannet", "scannet200", or the path of a table or of a plain list of semantic classes
    instance_names  file of the names among them that are instances, one per line; all of them if None
    raises          UsageError for an unknown name, InputError for a missing file, FormatError for a malformed list
    """
    label, ids, names, groups = _list_of(source, only_instances=True)
    if instance_names is not None:
        wanted = set(_plain(_read_lines(instance_names), instance_names)[1])
        unknown = sorted(wanted - set(names))
        if unknown:
            raise FormatError(f"class {unknown[0]!r} is not in {label}", file=instance_names)
        chosen = [index for index, name in enumerate(names) if name in wanted]
        ids, names, groups = ([part[i] for i in chosen] if part else [] for part in (ids, names, groups))
    return ClassList(label, tuple(ids), tuple(names), tuple(groups))


def grouped_classes(classes: ClassList, path: Path) -> ClassList:
    """Return the classes with the groups that a file gives them, such as base and novel.

    path    lines of a class name, a tab and its group; classes that it does not name are in no group
    raises  FormatError for a line of another form, a name twice, or one that is not in the list
    """
    groups: dict[str, str] = {}
    for number, line in enumerate(_read_lines(path), 1):
        name, _, group = line.partition("\t")
        if not group.strip() or "\t" in group or name in groups or name not in classes.names:
            problem = f"found {line!r}, expected a class of {classes.source} of its own, a tab and its group"
            raise FormatError(problem, file=path, line=number)
        groups[name] = group.strip()
    return replace(classes, groups=tuple(groups.get(name, "") for name in classes.names))


def _list_of(source: str, only_instances: bool) -> tuple[str, tuple, tuple, tuple]:
    """Return the name of a list, and the ids, names and groups of its classes."""
    name = _TABLES.get(source)
    path = Path(__file__).with_name(name) if name else Path(source)
    if not name and not path.is_file():
        if path.suffix or path.parent != Path():  # meant as a file
            raise InputError("no such file of classes", file=path)
        known = ", ".join(sorted(_TABLES))
        raise UsageError(f"no class list {source!r}", hint=f"give a file, or one of: {known}")
    lines = _read_lines(path)
    is_table = any(line.startswith("id\t") or line.endswith("\tid") or "\tid\t" in line for line in lines[:20])
    ids, names, groups = _table(lines, path, only_instances) if is_table else _plain(lines, path)
    return source if name else path.name, tuple(ids), tuple(names), tuple(groups)


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise FormatError("not UTF-8 text, expected a list of classes", file=path) from None
    return text.rstrip().splitlines()


def _plain(lines: list[str], path: Path) -> tuple[list[int], list[str], list[str]]:
    names = [line.strip() for line in lines]
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise FormatError(f"found {name!r}, expected a class name of its own", file=path, line=number)
    if not names:
        raise FormatError("no classes in it", file=path)
    return list(range(len(names))), names, []


def _table(lines: list[str], path: Path, only_instances: bool) -> tuple[list[int], list[str], list[str]]:
    """Return ids, names and groups of the rows, or of those whose `instance` is 1."""
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if not line.startswith("#")]
    header = rows[0][1]
    if not {"id", "name"} <= set(header):
        raise FormatError(f"columns are {header}, expected id and name", file=path, line=rows[0][0])
    ids, names, groups = [], [], []
    for number, row in rows[1:]:
        fields = dict(zip(header, row, strict=False))
        label_id = parse_integer(fields.get("id", ""))
        if len(row) != len(header) or label_id is None or label_id in ids or fields["name"] in names:
            raise FormatError(f"found {row}, expected {header} of a new class", file=path, line=number)
        if fields.get("instance", "1") == "1" or not only_instances:
            ids.append(label_id)
            names.append(fields["name"])
            groups += [fields["group"]] if "group" in fields else []
    if not ids:
        raise FormatError(f"no {'instance ' * only_instances}classes in it", file=path)
    return ids, names, groups
