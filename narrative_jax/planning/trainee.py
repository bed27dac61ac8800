"""What a train entry trains, with shapes in place of weights: no file is read, the published ones need not be there."""

from dataclasses import asdict, replace

import jax

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.core.options import names_of, parse
from narrative_jax.generators.base import Preset
from narrative_jax.models.lora import AdapterOptions
from narrative_jax.rewards.base import WithWeights
from narrative_jax.runs.directory import Context
from narrative_jax.runs.entries import options_of
from narrative_jax.runs.rewards import abstract_reward
from narrative_jax.runs.trained import standing_on, training_of
from narrative_jax.trainees.generator import GeneratorTrainee


def abstract_trainee(context: Context, preset: Preset, algorithm: Algorithm) -> GeneratorTrainee:
    """What `GeneratorTrainee.open` gives, with shapes in place of weights. Raises InputError."""
    options = options_of(context)
    others = ["stage", *names_of(type(options)), *GeneratorTrainee.sections(context)]
    own = parse(GeneratorTrainee.Options, context.entry, context.name, others)
    base, shapes = preset.abstract()
    reward = abstract_reward(context) if own.reward else None
    made = []  # structure, which is no array, leaves the abstract run by itself

    def build(weights, judging):
        begun, weights = _begun_with(context, base, weights)
        judge = WithWeights(reward, judging) if reward else None
        made.append(GeneratorTrainee.on(context, algorithm, own, begun, weights, judge))
        return made[0].params, made[0].frozen

    params, frozen = jax.eval_shape(build, dict(shapes), dict(reward.shapes) if reward else {})
    return replace(made[0], params=params, frozen=frozen, reward=reward)


def _begun_with(context, generator, weights):
    """With the adapters of the entries that the context's comes after."""
    config = context.config
    for name in (training_of(config, entry) for entry in standing_on(config, context.name)[:-1]):
        if adapter := config[name].get("adapter", None):
            options = asdict(parse(AdapterOptions, adapter, f"{name}.adapter"))
            generator, weights = generator.with_adapter(weights, name, **options)
    return generator, weights
