# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows a cloud in any browser, offline: markup, style, program and data in one.

A scene comes with its instances, an object with its parts, with scores of its points and patches, or with both; the
page says nothing of what it does not have.

The page may load nothing and run nothing but its own program (a content security policy with the hashes of both
script and style).  Labels come from files nobody vouches for: they reach the page as JSON in which no tag can start,
and the program puts them in as text.  Positions travel as 16 bits an axis of the bounding box, 0.2 mm in a 12 m room.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pc3dcli.formats.html_page import filled, packaged, policy_hash, safe_json

MAX_INSTANCES = 65_000  # labels are 16 bits in the page
MAX_PATCHES = 65_000  # 16 bits too
_STEPS = 65_535  # of a 16-bit coordinate
_SCRIPTS = ("web_page_shaders.js", "web_page_frames.js", "web_page.js")  # in the order they run


@dataclass(frozen=True)
class PageCloud:
    """The points of a page.

    title             shown as heading
    xyz               (N, 3) float, metres, world frame, finite
    rgb               (N, 3) uint8, or None
    normal            (N, 3) float that face the scanner, to hide what is seen from behind; None where unknown
    level_from_world  (3, 3) float, rotation that takes the up axis to z
    radius            (N,) float, metres, of the disc drawn for each point
    heading           angle about up at which the page's camera stands first, from level x
    num_points        points of the whole cloud, of which `xyz` may be a sample, or what stands for them; None when it
                      is all
    cut_height        points above this level height (last row of level_from_world @ xyz) start hidden; None shows all
    is_object         its instances are parts, and its coordinates no metres
    facts             lines under the title besides the numbers of points and instances
    """

    title: str
    xyz: np.ndarray
    rgb: np.ndarray | None
    level_from_world: np.ndarray
    radius: np.ndarray
    normal: np.ndarray | None = None
    heading: float = -1.0
    num_points: int | None = None
    cut_height: float | None = None
    is_object: bool = False
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageInstance:
    """One instance of a page.

    instance    its id
    points      (n,) integers, ascending: its points among those of the page; instances may share points
    color       (3,) uint8 RGB; score_color  the same for the colouring by score
    label       class name or None; score  in [0, 1] or None
    num_points  its points in the whole cloud, None when the page holds all
    is_pale     a wall or floor, in a pale colour
    """

    instance: int
    points: np.ndarray
    color: np.ndarray
    score_color: np.ndarray
    label: str | None = None
    score: float | None = None
    num_points: int | None = None
    is_pale: bool = False


@dataclass(frozen=True)
class PageValues:
    """Numbers of the points, one colouring of them.

    name      of letters; title  shown, as "Score"; note  a sentence that says what it is
    values    (N,) float, one a point of the page
    bounds    the numbers at which the colours begin and end; ends  what these mean, as ("easy", "hard")
    of_patch  (G,) float, NaN for none, the number of each patch; empty without patches
    """

    name: str
    title: str
    note: str
    values: np.ndarray
    bounds: tuple[float, float]
    ends: tuple[str, str]
    of_patch: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class PagePatches:
    """The patches of an object: index (N,) integers, that of each point; rank (G,) integers, 1 for the hardest."""

    index: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True)
class PageFrames:
    """Frames of the video with their masks: (caption, content of a JPEG file), some of `num_frames` in all."""

    pictures: tuple[tuple[str, bytes], ...] = ()
    num_frames: int = 0


def build_page(
    cloud: PageCloud,
    instances: Sequence[PageInstance],
    *,
    none_color: Sequence[int],
    ramp: np.ndarray,
    frames: PageFrames = PageFrames(),
    origin: Sequence[str] = (),
    values: Sequence[PageValues] = (),
    patches: PagePatches | None = None,
) -> str:
    """Return the text of the page.

    none_color  RGB of points of no instance; ramp (R, 3) uint8, colours of scores from least to greatest
    origin      lines that say how the data were made
    values      colourings by numbers; with `patches` they have a number of each
    raises      ValueError without points, with coordinates that are not finite, or with too many instances or patches
    """
    if len(cloud.xyz) == 0 or not np.isfinite(cloud.xyz).all():
        raise ValueError("a page needs points with finite coordinates")
    if len(instances) > MAX_INSTANCES:
        raise ValueError(f"{len(instances)} instances, a page shows at most {MAX_INSTANCES}")
    if patches is not None and len(patches.rank) > MAX_PATCHES:
        raise ValueError(f"{len(patches.rank)} patches, a page shows at most {MAX_PATCHES}")
    order = _grouped(len(cloud.xyz), instances)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    low, high = (np.asarray(bound, np.float64) for bound in (cloud.xyz.min(0), cloud.xyz.max(0)))
    extent = np.maximum(high - low, 1e-6)
    places = np.rint((cloud.xyz[order] - low) / extent * _STEPS).astype("<u2")
    scene = _geometry(cloud, (low + high) / 2, extent) | {
        "title": cloud.title,
        "count": len(cloud.xyz),
        "total": _total(cloud),
        "summary": _summary(cloud, instances, patches),
        "noun": _noun(cloud),
        "hasPale": any(one.is_pale for one in instances),
        "noneColor": _plain(none_color),
        "ramp": _plain(ramp),
        "instances": [_described(one, place) for one in instances],
        "frames": [{"caption": caption, "jpeg": _packed(jpeg)} for caption, jpeg in frames.pictures],
        "numFrames": frames.num_frames,
        "origin": list(origin),
        "values": [_colouring(one) for one in values],
        "ranks": [] if patches is None else _plain(patches.rank),
    }
    style, script = packaged("web_page.css"), "".join(packaged(name) for name in _SCRIPTS)
    parts = {
        "@TITLE@": html.escape(cloud.title),
        "@STYLE_HASH@": policy_hash(style),
        "@SCRIPT_HASH@": policy_hash(script),
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@SCENE@": safe_json(scene),
        "@POSITIONS@": _packed(places),
        "@RADII@": _packed(np.ceil(cloud.radius[order] / cloud.radius.max() * 255).astype(np.uint8)),
        "@NORMALS@": "" if cloud.normal is None else _packed(np.rint(cloud.normal[order] * 127).astype(np.int8)),
        "@COLORS@": "" if cloud.rgb is None else _packed(np.asarray(cloud.rgb, np.uint8)[order]),
        "@VALUES@": _packed(np.array([one.values[order] for one in values], "<f4")),
        "@PATCHES@": "" if patches is None else _packed(patches.index[order].astype("<u2")),
    }
    return filled(packaged("web_page.html"), parts)


def _summary(cloud: PageCloud, instances: Sequence[PageInstance], patches: PagePatches | None) -> list[str]:
    """Return the lines under the title: the facts, then how much there is of what."""
    total = _total(cloud)
    is_all = cloud.is_object or total == len(cloud.xyz)  # an object has a surface of dots in place of its points
    counts = [_counted(total, "point") if is_all else f"{len(cloud.xyz):,} of {_counted(total, 'point')}"]
    if instances:
        counts.append(_counted(len(instances), _noun(cloud)))
    if patches is not None:
        counts.append(_counted(len(patches.rank), "patch", "patches"))
    return [*cloud.facts, ", ".join(counts)]


def _total(cloud: PageCloud) -> int:
    return len(cloud.xyz) if cloud.num_points is None else int(cloud.num_points)


def _noun(cloud: PageCloud) -> str:
    return "part" if cloud.is_object else "instance"


def _counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _colouring(one: PageValues) -> dict:
    of_patch = [float(value) if np.isfinite(value) else None for value in one.of_patch]
    low, high = (float(value) for value in one.bounds)
    about = {"name": one.name, "title": one.title, "note": one.note, "ends": list(one.ends)}
    return about | {"low": low, "high": high, "ofPatch": of_patch}


def _grouped(num_points: int, instances: Sequence[PageInstance]) -> np.ndarray:
    """Return an order of the points in which instances are runs: by the smallest instance they belong to."""
    top = np.full(num_points, -1, np.int64)
    for index in sorted(range(len(instances)), key=lambda index: (-len(instances[index].points), index)):
        top[instances[index].points] = index
    return np.argsort(top, kind="stable")


def _geometry(cloud: PageCloud, middle: np.ndarray, extent: np.ndarray) -> dict:
    level = (cloud.xyz - middle) @ cloud.level_from_world.T
    low, high = np.percentile(level, (1, 99), axis=0)  # a few stray points must not shrink the scene
    floor, top = float(level[:, 2].min()), float(level[:, 2].max())
    shift = float(cloud.level_from_world[2] @ middle)
    cut = None if cloud.cut_height is None or cloud.cut_height - shift >= top else cloud.cut_height - shift
    return {
        "middle": _plain(middle),
        "half": _plain(extent / 2),
        "extent": _plain(extent),
        "level": _plain(cloud.level_from_world),
        "heading": float(cloud.heading),
        "target": _plain((low + high) / 2),
        "reach": max(float(np.linalg.norm(high - low)) / 2, 1e-3),
        "heights": [floor, max(top, floor + 1e-6)],
        "cut": cut,
        "radius": float(cloud.radius.max()),
    }


def _described(one: PageInstance, place: np.ndarray) -> dict:
    """Return what the page's program needs of an instance; place (N,) says where each point went."""
    places = np.sort(place[one.points])
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(places))
    return {
        "id": int(one.instance),
        "label": one.label,
        "score": None if one.score is None else float(one.score),
        "points": len(places),
        "total": len(places) if one.num_points is None else int(one.num_points),
        "color": _plain(one.color),
        "scoreColor": _plain(one.score_color),
        "runs": np.stack((places[starts], lengths), 1).reshape(-1).tolist(),
    }


def _packed(data: np.ndarray | bytes) -> str:
    return base64.b64encode(data if isinstance(data, bytes) else np.ascontiguousarray(data)).decode("ascii")


def _plain(values) -> list:
    return np.asarray(values).tolist()
