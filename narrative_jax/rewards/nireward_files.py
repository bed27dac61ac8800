"""NIReward on disk: its weights, its tokeniser, and a file that says what they are of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jax.sharding import Mesh

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json, write_json
from narrative_jax.core.options import File, parse
from narrative_jax.core.types import Params
from narrative_jax.models.chat_tokenizer import ChatTokenizer
from narrative_jax.models.checkpoints import load_weights, save_weights
from narrative_jax.models.critic import shapes_over, structure
from narrative_jax.models.network import under
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_files import QWEN2_VL_NAMES
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.rewards.nireward import NIReward
from narrative_jax.rewards.nireward_prompts import INSTRUCTIONS, Prompts, Room, check_instructions
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES

ABOUT = "nireward.json"  # lies beside the weights and says what they are of
SHIPPED = EMBEDDED / "nireward"
BACKBONE = SHIPPED / "backbone"  # it sees, and has not learned to judge
NIREWARD_NAMES = {**under("vlm", QWEN2_VL_NAMES), "reward": "reward"}


@dataclass(frozen=True)
class NIRewardOptions:
    """The weights of one that was trained, the other files of that training beside them; "" is the one that ships."""

    weights: File = field(default_factory=lambda: File(""))

    def build(self) -> NIReward:
        """The reward, whose weights are read when they are needed. Raises InputError as `load_nireward`."""
        return load_nireward(self.weights or SHIPPED / WEIGHTS)


def save_nireward(path: Path, reward: NIReward, params: Params) -> None:
    """Write weights, and beside them the tokeniser, of what size they are and what they are asked."""
    save_weights(path, params, NIREWARD_NAMES)
    prompts = reward.prompts
    prompts.tokenizer.save(path.with_name(TOKENIZER))
    write_json(
        path.with_name(ABOUT),
        {"size": reward.size, "room": asdict(prompts.room), "instructions": dict(prompts.instructions)},
    )


def load_nireward(weights: str | Path) -> NIReward:
    """One that `save_nireward` left: its weights, the other files beside them.

    Raises InputError for other files and an unreadable tokeniser, and on first use for arrays that do not fit.
    """
    path = Path(weights)
    for file, missing in ((path, "there is no such file"), (path.with_name(ABOUT), f"there is no {ABOUT} beside them")):
        if not file.is_file():
            rule = f"{missing}; NIReward is {WEIGHTS}, {ABOUT} and {TOKENIZER}, as its training leaves them"
            raise InputError(f"weights {str(path)!r}", rule, "give the path of such weights")
    about = read_json(path.with_name(ABOUT))
    size = about.get("size", "")
    check_name(f"size in {path.with_name(ABOUT)}", size, NIREWARD_SIZES)
    room = parse(Room, about.get("room", {}), f"{path.with_name(ABOUT)}: room")
    config, _ = NIREWARD_SIZES[size]
    network, _ = structure(config)
    prompts = prompts_by(path.with_name(TOKENIZER), config, room, instructions_of(path.parent))
    return NIReward(size, prompts, network, lambda mesh: read_nireward(path, config, mesh))


def read_nireward(weights: Path, config: VlmConfig, mesh: Mesh | None) -> Params:
    """The weights in a file that `save_nireward` left, over a mesh where one is given. Raises InputError."""
    return load_weights(weights, shapes_over(config, mesh), NIREWARD_NAMES, config.compute)


def instructions_of(folder: Path) -> Mapping[str, str]:
    """What the NIReward of a folder was asked; `INSTRUCTIONS` where nothing says, as of a published backbone."""
    path = folder / ABOUT
    return read_json(path).get("instructions", INSTRUCTIONS) if path.is_file() else INSTRUCTIONS


def prompts_by(path: Path, config: VlmConfig, room: Room, instructions: Mapping[str, str]) -> Prompts:
    """By the tokeniser of a file.

    Raises InputError for one that knows more tokens than the network has words, and as `check_instructions`.
    """
    check_instructions(instructions)
    tokenizer = ChatTokenizer.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        given, rule = f"{path} of {tokenizer.vocab_size} tokens", f"the network has {config.vocab_size} words"
        raise InputError(given, rule, "give the tokeniser of these weights")
    return Prompts(tokenizer, config.vision, room, instructions)
