# SPDX-License-Identifier: Apache-2.0
"""Help, manual pages and completions say the same, and what is generated is up to date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pc3dcli import docgen
from pc3dcli.main import COMMANDS, application

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT / "man") for path in (ROOT / "man").rglob("*.[1-9]"))
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "FILES", "DEPARTURES", "SEE ALSO"]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*command: str, text: str | None = None) -> str:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=text, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def help_options(name: str) -> set[str]:
    """Return the names of all options that `pc3d NAME --help` shows."""
    result = CliRunner().invoke(
        application(), [name, "--help"], prog_name="pc3d", env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    )
    assert result.exit_code == 0
    heads = re.findall(r"(?m)^  (-.*?)(?:  |$)", result.stdout)
    return {word for head in heads for word in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", head)}


def page(name: str) -> str:
    return (ROOT / f"man/man1/pc3d-{name}.1").read_text(encoding="utf-8")


def page_options(name: str) -> set[str]:
    part = page(name).split('.\\" BEGIN OPTIONS')[1].split('.\\" END OPTIONS')[0]
    heads = re.findall(r"(?m)^\.TP\n(.*)$", part)
    return {word.replace("\\-", "-") for head in heads for word in re.findall(r"\\fB(\\-.*?)\\fR", head)}


def bash_options(name: str) -> set[str]:
    script = (ROOT / "completions/pc3d").read_text(encoding="utf-8")
    return set(re.search(rf"(?m)^    {name}\) words='(.*)' ;;$", script)[1].split())


def zsh_options(name: str) -> set[str]:
    script = (ROOT / "completions/_pc3d").read_text(encoding="utf-8")
    part = re.search(rf"(?ms)^    {name}\)\n(.*?);;", script)[1]
    return set(re.findall(r"'\*(-[\w-]+)\[", part)) | ({"-h", "--help"} if "{-h,--help}" in part else set())


def fish_options(name: str) -> set[str]:
    script = (ROOT / "completions/pc3d.fish").read_text(encoding="utf-8")
    found = set()
    for line in script.splitlines():
        if line.startswith("#") or ("__fish_seen" in line and f"'__fish_seen_subcommand_from {name}'" not in line):
            continue
        head = line.split(" -d ")[0]
        found |= {f"--{word}" for word in re.findall(r" -l (\S+)", head)}
        found |= {f"-{word}" for word in re.findall(r" -s (\S+)", head)}
    return found


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("shown", [page_options, bash_options, zsh_options, fish_options])
def test_options_of_help_and_documents_are_the_same(name, shown):
    assert {"--help", "-h", "--debug"} <= help_options(name)
    assert shown(name) == help_options(name)


def test_generated_files_are_up_to_date():
    run(sys.executable, "-m", "pc3dcli.docgen", "--check")


def test_check_notices_a_difference(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "man", tmp_path / "man")
    monkeypatch.setattr(docgen, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docgen"])
    docgen.main()  # writes the completions
    monkeypatch.setattr(sys, "argv", ["docgen", "--check"])
    docgen.main()
    changed = tmp_path / "man/man1/pc3d-track2d.1"
    changed.write_text(changed.read_text().replace("Use every N", "Use each N"))
    (tmp_path / "completions/_pc3d").unlink()
    with pytest.raises(SystemExit, match=r"completions/_pc3d, man/man1/pc3d-track2d\.1"):
        docgen.main()


def test_a_page_without_its_marks_is_an_error(tmp_path):
    (tmp_path / "x.1").write_text(".SH OPTIONS\n")
    with pytest.raises(SystemExit, match="BEGIN OPTIONS"):
        docgen.man_page(tmp_path / "x.1", {"OPTIONS": "text"})


def test_roff_escapes():
    assert docgen._roff(".x\n'y -z \\n") == "\\&.x\n\\&'y \\-z \\en"


@pytest.mark.parametrize("name", COMMANDS)
def test_sections_of_the_pages(name):
    expected = [*SECTIONS[:3], *(["TASKS"] if name == "eval" else []), *SECTIONS[3:]]
    assert re.findall(r"(?m)^\.SH (.*)$", page(name)) == expected


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_pages_do_not_refer_to_what_their_readers_do_not_have(path):
    text = (ROOT / "man" / path).read_text(encoding="utf-8").replace("\\-", "-")
    assert not re.search(r"\bspec \d|\bsection \d|our specification|issue text", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("comment", "shown"),
    [
        ("metres, DBSCAN, spec 5.4", "metres, DBSCAN"),
        ("frames kept, W of spec section 4.4; 15 are read", "frames kept, W; 15 are read"),
        ("voxels, spec 5.3's, ours here", "voxels, ours here"),
        ("intersection over union, 3 x 3 pixels", "intersection over union, 3 x 3 pixels"),
    ],
)
def test_comments_lose_their_references(comment, shown):
    assert docgen._without_references(comment) == shown


def test_an_option_shows_the_default_of_the_field_that_it_sets():
    assert "fewer frames. Default: 3." in page("lift3d")


def test_every_command_and_no_other_has_a_page():
    pages = {path.stem for path in PAGES if path.suffix == ".1"}
    assert pages == {"pc3d", *(f"pc3d-{name}" for name in COMMANDS)}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_see_also_names_pages_that_exist(path):
    text = (ROOT / "man" / path).read_text(encoding="utf-8").replace("\\-", "-")
    for name, section in re.findall(r"(?m)^\.BR (pc3d[\w-]*) \((\d)\)", text):
        assert (ROOT / f"man/man{section}/{name}.{section}").exists(), f"{name}({section})"


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_examples_use_existing_commands_and_options_only(path):
    text = (ROOT / "man" / path).read_text(encoding="utf-8").replace("\\-", "-").replace("\\e\n", "")
    for block in re.findall(r"(?ms)^\.EX\n(.*?)^\.EE$", text):
        for name, rest in re.findall(r"(?<![\w\"-])pc3d ([a-z]\S*)([^|;#\n]*)", block):
            if name == "stream":  # "a pc3d stream", in a message
                continue
            assert name in COMMANDS, block
            unknown = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", rest)) - help_options(name)
            assert not unknown, f"pc3d {name}{rest}: {unknown}"


def test_commands_to_come_are_mentioned_nowhere():
    names = "detect"
    for path in [*(ROOT / "man").rglob("*.[1-9]"), *(ROOT / "completions").iterdir(), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8").replace("\\-", "-") if path.exists() else ""
        assert not re.search(rf"pc3d[ -]({names})\b", text), path


@needs("mandoc")
@pytest.mark.parametrize("path", PAGES, ids=str)
def test_mandoc_has_nothing_to_say(path):
    result = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(path)],
        cwd=ROOT / "man",
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if ".so is fragile" not in line]
    assert not lines, "\n".join(lines)


@needs("mandoc")
def test_the_alias_shows_the_stream_page():
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", "man5/pc3d-tracks.5"], cwd=ROOT / "man", capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("PC3D-STREAM(5)")
    assert len(shown.stdout) > 5000


@pytest.mark.parametrize(("shell", "script"), [("bash", "pc3d"), ("zsh", "_pc3d"), ("fish", "pc3d.fish")])
def test_completions_parse(shell, script):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    run(shell, "-n", f"completions/{script}")


def bash_candidates(folder: Path, *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""source {ROOT}/completions/pc3d; cd {folder}
    COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _pc3d; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return sorted(line for line in run("bash", "-c", script).splitlines() if line)


@needs("bash")
def test_bash_completion_produces_candidates(tmp_path):
    for name in ("scans", "my scans"):
        (tmp_path / name).mkdir()
    for name in ("t.ndjson", "room.ply", "notes.txt", "settings.toml"):
        (tmp_path / name).touch()
    assert set(COMMANDS) <= set(bash_candidates(tmp_path, "pc3d", ""))
    assert bash_candidates(tmp_path, "pc3d", "tr") == ["track2d"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "--mas") == ["--masks"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "--masks", "s") == ["sam", "sam2"]
    assert bash_candidates(tmp_path, "pc3d", "eval", "--preset", "scannet2") == ["scannet200"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "") == ["my scans", "room.ply", "scans", "t.ndjson"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "scans", "-q", "t") == ["t.ndjson"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "--config", "se") == ["settings.toml"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "--skip-done", "") == ["my scans", "scans"]
    assert bash_candidates(tmp_path, "pc3d", "track2d", "--stride", "") == []
    assert bash_candidates(tmp_path, "pc3d", "nonsense", "--m") == []


@needs("fish")
def test_fish_completion_produces_candidates(tmp_path):
    def candidates(line: str) -> set[str]:
        script = f"source {ROOT}/completions/pc3d.fish; cd {tmp_path}; complete -C '{line}'"
        return {row.split("\t")[0] for row in run("fish", "--no-config", "-c", script).splitlines()}

    assert set(COMMANDS) <= candidates("pc3d ")
    assert "--masks" in candidates("pc3d track2d --ma")
    assert candidates("pc3d track2d --masks s") == {"sam", "sam2"}
    assert candidates("pc3d lift3d --masks s") == set()
