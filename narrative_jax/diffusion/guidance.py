"""Classifier-free guidance."""


def guide(predictions, scales):
    """The first prediction, moved away from each of the others in turn; a scale of 1.0 is off.

    first + Σ (scale_i - 1) · (prediction_{i-1} - prediction_i). With one other, which lacks the text, it is Ho &
    Salimans 2022, whose w is scale - 1; with (all, without the text, without both) Brooks et al. 2023, eq. 3.
    """
    guided = predictions[0]
    for fuller, emptier, scale in zip(predictions, predictions[1:], scales, strict=False):
        guided = guided + (scale - 1) * (fuller - emptier)
    return guided
