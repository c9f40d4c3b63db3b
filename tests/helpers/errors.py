"""How far results are from the truth."""

from torch import Tensor


def relative_errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Largest difference of each tensor from the truth, relative to the largest magnitude there.

    A tensor that is small beside the largest of all is held against a tenth of that one. One that
    is zero but for rounding, such as the gradient of a table with one cell, is held against the
    largest itself, since it cancels terms that start from a rounded output. Where all are zero,
    errors are differences.
    """
    largest = max(float(x.detach().abs().max()) for x in truth)
    errors = []
    for x, expected in zip(found, truth, strict=True):
        scale = float(expected.detach().abs().max())
        if scale < 1e-9 * largest:
            scale = largest
        error = float((x - expected).detach().abs().max())
        errors.append(error / (max(scale, 0.1 * largest) or 1))
    return errors
