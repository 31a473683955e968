"""Two folders of clips -> `SetReport`: distances of their features, and what is measured clip by clip.

    fvd, kvd      Frechet and kernel distance of I3D features, one for each clip
    fid, kid      the same of Inception features, one for each frame
    clip          cosine of a clip's caption and its frames, by CLIP, of FAKE
    consistency   cosine of consecutive frames, by CLIP, of FAKE
    pic           perceptual input conformity (DynamiCrafter, Xing et al. 2023): 1 - D of the first frame of REAL's
                  clip, which FAKE's was made from, and each frame of FAKE's; D is DreamSim, or LPIPS where that is not
                  named

The last three are means over clips of means over frames. One clip is in memory at a time; of features, their moments
and at most `MOST_SAMPLES`.
Owns: which network sees what, keys of the report, what is said of small sets. Does not know: how networks are called.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cvcodec.errors import BitstreamError, InputError, UsageError
from cvcodec.quality.sets.distances import Moments, Sample, frechet_distance, kernel_distance
from cvcodec.quality.sets.folders import ClipFolder, ClipReader, caption_of
from cvcodec.quality.sets.networks import Clip, I3d, Inception, Pairs

NETWORK_OF = {
    "fvd": "i3d",
    "kvd": "i3d",
    "fid": "inception",
    "kid": "inception",
    "clip": "clip",
    "consistency": "clip",
    "pic": "pairs",
}
"""Metrics, and the fields of `Networks` that they need."""

_PUBLISHED = 2048  # clips or pictures of each side in the paper's tables


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Those that the metrics need; None: not needed."""

    i3d: I3d | None = None
    inception: Inception | None = None
    clip: Clip | None = None
    pairs: Pairs | None = None


@dataclass
class SetReport:
    """What was compared and what came out."""

    real: Path
    fake: Path
    frames: int
    metrics: tuple[str, ...]
    clips: dict[str, int] = field(default_factory=lambda: {"real": 0, "fake": 0})
    pictures: dict[str, int] = field(default_factory=lambda: {"real": 0, "fake": 0})
    values: dict[str, float] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    """By metric, the name of what it was measured with."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; None for what was not measured."""
        return {
            "reference": str(self.real),
            "test": str(self.fake),
            "metrics": list(self.metrics),
            "set_frames": self.frames,
            "clips_reference": self.clips["real"],
            "clips_test": self.clips["fake"],
            "pictures_reference": self.pictures["real"],
            "pictures_test": self.pictures["fake"],
            **{name: self.values.get(name) for name in NETWORK_OF},
            "networks": dict(self.networks),
            "notes": list(self.notes),
        }


def compare_sets(
    real: ClipFolder,
    fake: ClipFolder,
    *,
    metrics: Collection[str],
    networks: Networks,
    reader: ClipReader,
    frames: int = 16,
    most: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> SetReport:
    """Of the first `frames` frames of at most `most` clips of each folder, chosen by `seed`.

    Clips that are shorter are left out where I3D sees them; files that cannot be read are left out; both are noted.
    Raises UsageError for a metric without its network, InputError for too few clips, a clip of FAKE without its own in
    REAL (pic) or without a caption (clip).
    """
    measured = tuple(name for name in NETWORK_OF if name in metrics)
    report = SetReport(real.path, fake.path, frames, measured)
    for name in measured:
        network = getattr(networks, NETWORK_OF[name])
        if network is None:
            raise UsageError(f"{name} is measured by a network, and none was given")
        report.networks[name] = network.name
    # Both are known before hours of work.
    partners = _partners(real, fake, needed="pic" in measured) if {"pic", "clip"} & set(measured) else {}
    sides = {"real": real.chosen(most, seed), "fake": fake.chosen(most, seed)}
    captions = {file: caption_of(file, partners.get(file, ())) for file in sides["fake"] if "clip" in measured}
    features: dict[str, dict[str, _Features]] = {}
    scores: dict[str, list[float]] = {"clip": [], "consistency": [], "pic": []}
    done = 0
    for side, files in sides.items():
        features[side] = {name: _Features(seed) for name in ("i3d", "inception")}
        for file in files:
            done += 1
            clip = _read(reader, file, frames, report)
            if clip is None or (networks.i3d is not None and _is_short(clip, file, report)):
                continue
            report.clips[side] += 1
            report.pictures[side] += len(clip)
            if networks.i3d is not None:
                features[side]["i3d"].add(networks.i3d.features(clip))
            if networks.inception is not None:
                features[side]["inception"].add(networks.inception.features(clip))
            if side == "fake":
                partner = next(iter(partners.get(file, ())), None)
                for name, value in _of_clip(clip, networks, captions.get(file), partner, reader):
                    scores[name].append(value)
            if on_progress is not None:
                on_progress(done)
    for name in measured:
        if name in scores:
            report.values[name] = _mean(name, scores[name], fake)
        else:
            pair = [features[side][NETWORK_OF[name]] for side in ("real", "fake")]
            report.values[name] = _distance(name, pair, report)
    return report


class _Features:
    """Of one side by one network."""

    def __init__(self, seed: int) -> None:
        self.moments, self.sample = Moments(), Sample(seed)

    def add(self, rows: Tensor) -> None:
        self.moments.add(rows)
        self.sample.add(rows)


def _partners(real: ClipFolder, fake: ClipFolder, *, needed: bool) -> dict[Path, tuple[Path, ...]]:
    """REAL's file of each of FAKE's, by their names; empty where there is none and none is needed."""
    known = real.by_key()
    found = {file: known.get(key) for key, file in fake.by_key().items()}
    if missing := [file for file, partner in found.items() if partner is None and needed]:
        raise InputError(
            f"{real.path} has nothing called {fake.key(missing[0])}, which pic compares {missing[0]} with "
            f"({len(missing)} are missing); give both the same names, or leave pic out"
        )
    return {file: () if partner is None else (partner,) for file, partner in found.items()}


def _read(reader: ClipReader, file: Path, frames: int, report: SetReport) -> Tensor | None:
    try:
        return reader.read(file, frames)
    except (InputError, BitstreamError) as error:
        report.notes.append(f"left out: {error}" if str(file) in str(error) else f"left out {file}: {error}")
        return None


def _is_short(clip: Tensor, file: Path, report: SetReport) -> bool:
    if len(clip) >= report.frames:
        return False
    report.notes.append(f"left out {file}: it has {len(clip)} frames, and --set-frames {report.frames} are wanted")
    return True


def _of_clip(
    clip: Tensor, networks: Networks, caption: str | None, partner: Path | None, reader: ClipReader
) -> Iterator[tuple[str, float]]:
    """Metrics of one clip of FAKE."""
    if networks.clip is not None:
        seen = networks.clip.of_pictures(clip)
        if caption is not None:
            yield "clip", float((seen @ networks.clip.of_text(caption)).mean())
        if len(seen) > 1:
            yield "consistency", float((seen[1:] * seen[:-1]).sum(dim=1).mean())
    if networks.pairs is not None and partner is not None:
        yield "pic", float((1 - networks.pairs.distances(reader.read(partner, 1), clip)).mean())


def _mean(name: str, values: list[float], fake: ClipFolder) -> float:
    if not values:
        frames = " of two frames or more" if name == "consistency" else ""
        raise InputError(f"{fake.path} has no clip{frames} that could be read, for {name}")
    return statistics.fmean(values)


def _distance(name: str, pair: list[_Features], report: SetReport) -> float:
    counts = [features.moments.count for features in pair]
    what = "clips" if NETWORK_OF[name] == "i3d" else "pictures"
    if min(counts) < 2:
        long = f" of {report.frames} frames" if what == "clips" else ""
        raise InputError(
            f"{name} needs two {what}{long} or more of each folder, got {counts[0]} and {counts[1]}"
            + (f": {report.notes[0]}" if report.notes else "")
        )
    real, fake = pair
    if name in ("kvd", "kid"):
        return kernel_distance(real.sample.rows, fake.sample.rows)
    if min(counts) <= real.moments.size:
        report.notes.append(
            f"{name} of {counts[0]} and {counts[1]} {what} is far too large: covariances of {real.moments.size} "
            f"features are singular for no more {what} than that; compare it with that of sets of the same sizes alone "
            f"(published ones have {_PUBLISHED} or more)"
        )
    return frechet_distance(real.moments, fake.moments)
