"""IS-Net equals a torch network of the same description; its names cover the published file."""

import jax
import numpy as np
import pytest
from flax import nnx
from parity import published_shapes, relative_error, with_random_weights

from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.isnet import ISNET_NAMES, ISNET_SIZES, ISNet, ISNetConfig
from narrative_jax.models.network import abstract
from narrative_jax.models.shipped import STORYBOOK

SMALL = ISNetConfig(32, 3, (4, 6, 5, 8, 7, 9), (2, 3, 4, 3, 2, 4), (6, 5, 4, 3, 2), (3, 2, 4, 2, 3))
PARAMETERS = 44_046_790  # of the published file, without statistics


def structure(config):
    return abstract(lambda: ISNet(config, rngs=nnx.Rngs(0)))


def reference(config):
    """The network in torch, with the names of the published files."""
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    def larger(x, like):
        return functional.interpolate(x, size=like.shape[2:], mode="bilinear")

    class Unit(nn.Module):
        def __init__(self, size_in, size_out, dilation=1):
            super().__init__()
            self.conv_s1 = nn.Conv2d(size_in, size_out, 3, padding=dilation, dilation=dilation)
            self.bn_s1 = nn.BatchNorm2d(size_out)

        def forward(self, x):
            return torch.relu(self.bn_s1(self.conv_s1(x)))

    class Block(nn.Module):
        def __init__(self, depth, size_in, inner, size_out):
            super().__init__()
            self.depth = depth
            self.rebnconvin = Unit(size_in, size_out)
            for i in range(1, depth + 1):
                setattr(self, f"rebnconv{i}", Unit(size_out if i == 1 else inner, inner, 2 if i == depth else 1))
            for i in range(1, depth):
                setattr(self, f"rebnconv{i}d", Unit(2 * inner, size_out if i == 1 else inner))

        def forward(self, x):
            entered, levels = self.rebnconvin(x), []
            x = entered
            for i in range(1, self.depth):
                if i > 1:
                    x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
                x = getattr(self, f"rebnconv{i}")(x)
                levels.append(x)
            x = getattr(self, f"rebnconv{self.depth}")(x)
            for i in range(self.depth - 1, 0, -1):
                x = getattr(self, f"rebnconv{i}d")(torch.cat((larger(x, levels[i - 1]), levels[i - 1]), 1))
            return x + entered

    class Flat(nn.Module):
        def __init__(self, size_in, inner, size_out):
            super().__init__()
            self.rebnconvin, self.rebnconv1 = Unit(size_in, size_out), Unit(size_out, inner)
            self.rebnconv2, self.rebnconv3, self.rebnconv4 = (Unit(inner, inner, d) for d in (2, 4, 8))
            self.rebnconv3d, self.rebnconv2d = (Unit(2 * inner, inner, d) for d in (4, 2))
            self.rebnconv1d = Unit(2 * inner, size_out)

        def forward(self, x):
            entered = self.rebnconvin(x)
            one = self.rebnconv1(entered)
            two = self.rebnconv2(one)
            three = self.rebnconv3(two)
            x = self.rebnconv3d(torch.cat((self.rebnconv4(three), three), 1))
            x = self.rebnconv2d(torch.cat((x, two), 1))
            return self.rebnconv1d(torch.cat((x, one), 1)) + entered

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv2d(3, config.stem, 3, stride=2, padding=1)
            w, m, up, mid = config.widths, config.inner, config.widths_up, config.inner_up
            for i, depth in enumerate((7, 6, 5, 4)):
                setattr(self, f"stage{i + 1}", Block(depth, (config.stem, *w)[i], m[i], w[i]))
            self.stage5, self.stage6 = Flat(w[3], m[4], w[4]), Flat(w[4], m[5], w[5])
            self.stage5d = Flat(w[5] + w[4], mid[0], up[0])
            for i, depth in zip((4, 3, 2, 1), (4, 5, 6, 7), strict=True):
                setattr(self, f"stage{i}d", Block(depth, up[4 - i] + w[i - 1], mid[5 - i], up[5 - i]))
            for i, width in enumerate((*up[::-1], w[5]), 1):
                setattr(self, f"side{i}", nn.Conv2d(width, 1, 3, padding=1))

        def forward(self, x):
            level, levels = self.conv_in(x / 2), []
            for i in range(1, 7):
                if i > 1:
                    level = functional.max_pool2d(level, 2, 2, ceil_mode=True)
                level = getattr(self, f"stage{i}")(level)
                levels.append(level)
            decoded = [levels[-1]]
            for i in range(5, 0, -1):
                both = torch.cat((larger(decoded[-1], levels[i - 1]), levels[i - 1]), 1)
                decoded.append(getattr(self, f"stage{i}d")(both))
            sides = [getattr(self, f"side{i}")(y) for i, y in enumerate(decoded[::-1], 1)]
            return torch.stack([larger(side, x)[:, 0] for side in sides])

    return Network().eval()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The torch network with random weights and statistics, and ours with the same."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    theirs = with_random_weights(reference(SMALL))
    path = tmp_path_factory.mktemp("isnet") / "model.safetensors"
    save_file(theirs.state_dict(), path)
    network, shapes = structure(SMALL)
    return theirs, network, load_weights(path, shapes, ISNET_NAMES)


@pytest.mark.parametrize("size", [(64, 64), (75, 98), (40, 33)])
@pytest.mark.slow
def test_all_six_answers(networks, size):
    import torch

    theirs, network, params = networks
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    found = jax.jit(lambda params, images: network.bind(params)(images))(params, images)
    for ours, other in zip(found, expected, strict=True):
        assert relative_error(ours, other) <= 1e-4


def test_names_cover_the_published_file():
    torch = pytest.importorskip("torch")
    ours = published_shapes(structure(ISNET_SIZES["RMBG-1.4"])[1], ISNET_NAMES)
    with torch.device("meta"):
        theirs = reference(ISNET_SIZES["RMBG-1.4"]).state_dict()
    theirs = {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    assert ours == theirs
    assert sum(np.prod(shape) for key, shape in ours.items() if "running" not in key) == PARAMETERS


def test_storybooks_is_small():
    assert sum(value.size for value in structure(ISNET_SIZES[STORYBOOK])[1].values()) * 2 < 2e6
