"""A scalar reward on disk: its weights, its tokeniser, and a file that says what they are of."""

from dataclasses import dataclass, replace
from pathlib import Path

from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json, write_json
from narrative_jax.core.mesh import laid_shapes
from narrative_jax.core.options import File
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights, save_weights, stored_shapes
from narrative_jax.models.known_files import recognise
from narrative_jax.models.network import abstract
from narrative_jax.models.scalar_reward import SCALAR_SIZES, ScalarReward, ScalarRewardConfig, scalar_names
from narrative_jax.models.shipped import weights_file
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer
from narrative_jax.rewards.scalar import Scalar

ABOUT = "scalar.json"  # lies beside the weights and says what they are of


@dataclass(frozen=True)
class ScalarOptions:
    """The weights of one that was trained, the other files of that training beside them."""

    weights: File

    def build(self) -> Scalar:
        """The reward, whose weights are read when they are needed. Raises InputError as `load_scalar`."""
        return load_scalar(weights_file(self.weights))


def save_scalar(path: Path, reward: Scalar, params: Params) -> None:
    """Write weights, and beside them the tokeniser, of what size they are and where they look."""
    save_weights(path, params, scalar_names(params))
    reward.tokenizer.save(path.with_name(TOKENIZER))
    write_json(path.with_name(ABOUT), {"size": reward.size, "regions": reward.regions})


def load_scalar(weights: str | Path) -> Scalar:
    """One that `save_scalar` left: its weights, the other files beside them.

    Raises InputError for other files and an unreadable tokeniser, and on first use for arrays that do not fit.
    """
    path = Path(weights)
    if not path.with_name(ABOUT).exists():
        what = recognise(stored_shapes(path)) or "no network that is known here"
        rule = f"no {ABOUT} beside it says which scalar reward it is of; by its arrays it is {what}"
        remedy = "give what training a scalar reward has left, all files of it, or train it again"
        raise InputError(f"{weights}", rule, remedy)
    about = read_json(path.with_name(ABOUT))
    try:
        size, boxes = about["size"], about["regions"]
        regions = tuple((top, left, bottom, right) for top, left, bottom, right in boxes)
    except (KeyError, TypeError, ValueError):
        rule = "it holds the size's name, and regions of four numbers"
        raise InputError(f"{path.with_name(ABOUT)}", rule, "copy it again, or train it again") from None
    config, tokenizer = with_tokenizer(size, path.with_name(TOKENIZER))
    network, shapes = abstract(lambda: ScalarReward(config, rngs=nnx.Rngs(0)))

    def read(mesh):
        return load_weights(path, laid_shapes(shapes, network.axes, mesh), scalar_names(shapes))

    return Scalar(size, config, tokenizer, network, read, regions)


def with_tokenizer(size: str, path: Path) -> tuple[ScalarRewardConfig, Tokenizer]:
    """The config of a size, as the tokeniser in a file wants it. Raises InputError for an unknown size."""
    check_name("size of scalar", size, SCALAR_SIZES)
    tokenizer, config = Tokenizer.load(path), SCALAR_SIZES[size]
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    return replace(config, text=text), tokenizer
