"""Classifier-free guidance."""


def guide(conditional, unconditional, guidance_scale):
    """Away from the unconditional prediction; 1.0 is off (Ho & Salimans 2022, whose w is guidance_scale - 1)."""
    return conditional + (guidance_scale - 1) * (conditional - unconditional)
