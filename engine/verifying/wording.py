"""What was found, as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.verifying.checks import Verification
from engine.verifying.survival import Survival

MARKS = {"ok": "ok ", "failed": "FAILED ", "not checked": "not checked "}
WORDS = {
    "max_difference_levels": "largest difference, of 255",
    "mean_difference_levels": "mean difference, of 255",
    "psnr_mean": "PSNR, mean (dB)",
    "psnr_min": "PSNR, lowest (dB)",
    "ssim_mean": "SSIM, mean",
    "ssim_min": "SSIM, lowest",
}


def as_text(found: Verification) -> str:
    """Return one line a check, and what was measured."""
    width = max(len(check.name) for check in found.checks)
    lines = [f"{check.name:<{width}}  {MARKS[check.status]} {check.found}" for check in found.checks]
    lines += [f"{WORDS[name]}: {value:g}" for name, value in found.measured.items()]
    return "\n".join(lines)


def survival_text(found: Sequence[Survival]) -> str:
    """Return a table of what is left after each change."""
    return "\n".join(_lines(found))


def _lines(found: Sequence[Survival]) -> Iterator[str]:
    width = max(len(row.change) for row in found)
    yield f"{'images':<{width}}  {'norm left':>9}  {'noise left':>10}  {'loss gap':>18}  {'effect left':>11}"
    for row in found:
        shares = (_percent(row.norm), _percent(row.aligned), _gap(row.loss_gap), _percent(row.effect))
        yield "{:<{}}  {:>9}  {:>10}  {:>18}  {:>11}".format(row.change, width, *shares)
    yield ""
    yield "norm left: the length of what tells released images from clean ones; noise left: the noise's part in it"
    yield "loss gap: how much lower the surrogate's loss is on released images than on clean ones, in the same views"
    if found[0].loss_gap is None:
        yield "The poison was made without a network: there is no surrogate whose loss could be looked at."
    elif found[0].effect is None:
        yield "The surrogate's loss does not tell released images from clean ones: no effect on it can be measured."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _gap(gap: tuple[float, float] | None) -> str:
    return "-" if gap is None else f"{gap[0]:.3g} ± {gap[1]:.1g}"
