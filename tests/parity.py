"""What tests against torch's networks share."""

import copy

import numpy as np

from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.stacks import shapes_on_disk


def relative_error(ours, theirs):
    """max|ours - theirs| / max|theirs| of an array and a torch tensor of the same shape."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def published_shapes(shapes, names):
    """Keys and shapes that weights of these shapes have on disk."""
    shapes = shapes_on_disk(shapes)
    published = published_names(shapes, names)
    assert len({entry.key for entry in published.values()}) == len(shapes)
    return {
        key: tuple(shapes[name].shape if layout is None else (shapes[name].shape[axis] for axis in np.argsort(layout)))
        for name, (key, layout) in published.items()
    }


def with_random_weights(network):
    """A torch network of convolutions and batch norms, its weights and statistics drawn: none is 0 or 1 any more."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.ndim == 1:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
            elif value.ndim:
                value.copy_(torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5)
    return network


def slope(model, output, images, step):
    """How fast `output(model(images))` changes as `images`, f32[b, h, w, 3], move along `step`; by differences."""
    import torch

    model = copy.deepcopy(model).double()  # so small a difference needs the digits
    images, step = (torch.tensor(array, dtype=torch.float64).permute(0, 3, 1, 2) for array in (images, step))
    with torch.no_grad():
        ahead, behind = (output(model(images + side * step)) for side in (1e-7, -1e-7))
    return (ahead - behind) / 2e-7
