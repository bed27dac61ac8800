"""Plans: what is read from a compiled program's text, FLOPs against hand counts, times, and bad input."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from small_encoders import small_storybook

from narrative_jax import pipeline, plan
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import check_divided, make_mesh
from narrative_jax.core.options import parse
from narrative_jax.generators.flow_presets import FLUX_DEV, TINY_FLOW
from narrative_jax.models.network import below
from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.planning import planner, report, topologies, words
from narrative_jax.planning.alive import held
from narrative_jax.planning.collectives import by_kind, collectives
from narrative_jax.planning.flops import flops, live
from narrative_jax.planning.hlo import Program, members
from narrative_jax.planning.planner import Asked
from narrative_jax.planning.planner import plan as plan_of
from narrative_jax.planning.programs import scoring_program, train_program
from narrative_jax.planning.search import candidates
from narrative_jax.planning.traffic import memory_bytes
from narrative_jax.planning.trainee import abstract_trainee
from narrative_jax.rewards.nireward_prompts import Room
from narrative_jax.runs.directory import Context
from narrative_jax.trainees.encoding import batch_shapes
from narrative_jax.training.step import gradients

LOOP = """\
HloModule jit_run

%region_cond (arg: (s32[], bf16[16,8])) -> pred[] {
  %arg = (s32[]{:T(128)}, bf16[16,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %other = s32[]{:T(128)} constant(7)
  %bound = s32[]{:T(128)} constant(19)
  ROOT %less = pred[]{:T(512)} compare(%at, %bound), direction=LT
}

%inner_cond (arg.1: (s32[], bf16[16,8])) -> pred[] {
  %arg.1 = (s32[], bf16[16,8]) parameter(0)
  %at.1 = s32[] get-tuple-element(%arg.1), index=0
  %bound.1 = s32[] constant(3)
  ROOT %less.1 = pred[] fusion(%at.1, %bound.1), kind=kLoop, calls=%compared
}

%compared (p.0: s32[], p.1: s32[]) -> pred[] {
  %p.0 = s32[] parameter(0)
  %p.1 = s32[] parameter(1)
  ROOT %c = pred[] compare(%p.0, %p.1), direction=LT
}

%inner_body (arg.2: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %arg.2 = (s32[], bf16[16,8]) parameter(0)
  %x.2 = bf16[16,8] get-tuple-element(%arg.2), index=1
  %cps = (bf16[16,8], bf16[16,8], u32[], u32[]) collective-permute-start(%x.2), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %cpd = bf16[16,8] collective-permute-done(%cps)
}

%region_body (arg.3: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %arg.3 = (s32[], bf16[16,8]) parameter(0)
  %x.3 = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%arg.3), index=1
  %kernel = bf16[16,8] custom-call(%x.3), custom_call_target="tpu_custom_call", backend_config={"body": "
}}, not the end
}} of the computation"}
  %ag = (bf16[16,8]{1,0:T(8,128)(2,1)}, /*index=1*/f32[8]{0}) all-gather(%x.3, %y), channel_id=1, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %inner = (s32[], bf16[16,8]) while(%x.3), condition=%inner_cond, body=%inner_body
}

ENTRY %main (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8] parameter(0)
  %ags = (bf16[4,8], bf16[16,8]) all-gather-start(%p), channel_id=2, replica_groups=mesh['a'=4,'b'=4] {'b'}, dimensions={0}
  %agd = bf16[16,8] all-gather-done(%ags)
  %ar = f32[] all-reduce(%loss), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%add
  ROOT %loop = (s32[], bf16[16,8]) while(%agd), condition=%region_cond, body=%region_body
}
"""  # noqa: E501

FUSED = """\
HloModule jit_run

%half (q: bf16[4,8]) -> bf16[16,8] {
  %q = bf16[4,8] parameter(0)
  ROOT %g = bf16[16,8] all-gather(%q), channel_id=9, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.1 (r: f32[16]) -> f32[4] {
  %r = f32[16] parameter(0)
  %sum = f32[16] all-reduce(%r), channel_id=5, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %part = f32[4] dynamic-slice(%sum, %zero), dynamic_slice_sizes={4}
}

ENTRY %main (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %start = bf16[16,8] fusion(%p), kind=kCustom, calls=%half
  %done = bf16[16,8] fusion(%p), kind=kCustom, calls=%half
  %scattered = f32[4] fusion(%grads), kind=kCustom, calls=%all-reduce-scatter.1
  %first = bf16[16,8] all-gather(%p), channel_id=6, replica_groups=[1,4]<=[4], dimensions={0}
  %second = bf16[16,8] all-gather(%p), channel_id=6, replica_groups=[1,4]<=[4], dimensions={0}
  %sent = (bf16[4,8], u32[], token[]) send(%p, %after), channel_id=7
  ROOT %t = (bf16[16,8]) tuple(%first)
}
"""


def test_collectives_in_loops_count_as_often_as_they_run():
    program = Program(LOOP)
    found = {(each.kind, each.group, each.times, each.in_loop): each.bytes for each in collectives(program, 16)}
    assert found == {
        ("all-gather", 4, 1, False): 256,  # the result, not the operand that its tuple holds too
        ("all-reduce", 8, 1, False): 4,
        ("all-gather", 4, 19, True): 256 + 32,  # all results of a combined one, after the kernel's line breaks
        ("collective-permute", 16, 57, True): 256,  # 19 × 3
    }
    assert by_kind(collectives(program, 16)) == {
        "all-gather": 256 + 19 * 288,
        "all-reduce": 4,
        "collective-permute": 57 * 256,
    }


def test_parts_of_one_collective_count_once_and_a_reduce_scatter_is_seen():
    found = collectives(Program(FUSED), 4)
    assert by_kind(found) == {"all-gather": 3 * 256, "reduce-scatter": 16, "send": 64}
    assert by_kind(found, "wire") == {"all-gather": 3 * 192, "reduce-scatter": 48, "send": 64}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("f32[2,3]{1,0:T(8,128)}", ["f32[2,3]{1,0:T(8,128)}"]),
        ("(f32[2]{0:T(8,128)(2,1)}, /*index=1*/u32[])", ["f32[2]{0:T(8,128)(2,1)}", "u32[]"]),
        ("((f32[2], f32[3]), (f32[4], f32[5]))", ["(f32[2], f32[3])", "(f32[4], f32[5])"]),
    ],
)
def test_members_of_a_tuple(text, parts):
    assert members(text) == parts


def test_a_known_trip_count_is_taken():
    text = LOOP.replace("body=%inner_body", 'body=%inner_body, backend_config={"known_trip_count":{"n":"5"}}')
    assert by_kind(collectives(Program(text), 16))["collective-permute"] == 19 * 5 * 256


def test_memory_traffic_of_slices_and_of_fast_memory():
    text = """\
%sliced (w: f32[57,100], i: s32[]) -> f32[1,100] {
  %w = f32[57,100] parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,100] dynamic-slice(%w, %i), dynamic_slice_sizes={1,100}
}

%updated (stack: f32[57,100], row: f32[1,100]) -> f32[57,100] {
  %stack = f32[57,100] parameter(0)
  %row = f32[1,100] parameter(1)
  ROOT %u = f32[57,100] dynamic-update-slice(%stack, %row, %row)
}

ENTRY %main (a: f32[57,100], b: f32[100]) -> f32[100] {
  %a = f32[57,100]{1,0} parameter(0)
  %at = s32[]{:S(6)} constant(3)
  %fast = f32[100]{0:T(128)S(1)} parameter(1)
  %block = f32[1,100]{1,0} fusion(%a, %at), kind=kLoop, calls=%sliced
  %kept = f32[57,100]{1,0} fusion(%a, %block), kind=kLoop, calls=%updated
  %c = f32[100]{0} add(%fast, %block)
  ROOT %r = f32[100]{0} get-tuple-element(%c), index=0
}
"""
    assert memory_bytes(Program(text)) == (400 + 400) + (400 + 400 + 400) + (400 + 400)


def test_flops_of_products_loops_branches_and_convolutions():
    def run(x, w, kernel):
        y, _ = jax.lax.scan(lambda carry, each: (jnp.tanh(carry @ each), None), x, w)
        y = jax.lax.cond(y.sum() > 0, lambda: y @ w[0] @ w[1], lambda: y)
        picture = jax.lax.conv_general_dilated(
            jnp.ones((2, 8, 8, 3)), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y, picture

    traced = jax.make_jaxpr(run)(jnp.ones((4, 16)), jnp.ones((5, 16, 16)), jnp.ones((3, 3, 3, 7)))
    found = flops(live(traced))
    assert found.spread == 2 * 4 * 16 * 16 * (5 + 2) + 2 * (2 * 8 * 8 * 7) * (3 * 3 * 3) and found.local == 0


@pytest.mark.slow
def test_flops_of_a_step_are_those_of_a_hand_count():
    """Diffusion-DPO with an adapter on FLUX, one block of each kind: the policy there and back, the reference there,
    the subjects once for both; a frozen layer's way back is one product, attention's are four for two.
    """
    width, text, noisy, branch = 3072, 512, 4096, 1024
    main, both, subjects = text + noisy, text + noisy + 2 * branch, 2 * branch
    layer = 12 * width**2  # multiplications a token, in both kinds of block: q, k, v, out, and an MLP of 4 widths
    linear, attention = 2 * layer * main, 2 * (2 * main * both * width)
    prepared = 2 * (layer * subjects + 2 * subjects * branch * width)
    hand = 2 * (2 * (2 * linear + 3 * attention) + 2 * (linear + attention) + prepared)
    preset = replace(
        FLUX_DEV.keeping("all"), transformer=replace(FLUX_DEV.transformer, double_blocks=1, single_blocks=1)
    )
    preset, algorithm = preset.keeping("all"), DPO()
    trainee = abstract_trainee(entry_of("adpo:flux"), preset, algorithm)
    batch = batch_shapes("preferences", trainee.base, 2)
    traced = jax.make_jaxpr(lambda *given: gradients(algorithm, trainee, *given, jax.random.key(0)))
    found = flops(live(traced(trainee.params, trainee.frozen, batch))).spread / 2
    assert hand < found < 1.04 * hand  # the rest: adapters, modulation, embeddings, rotary exchanges


def entry_of(config, entry="align", **presets):
    tables = pipeline.default_tables()
    tables = replace(tables, presets={**tables.presets, **presets})
    return Context(FrozenConfigDict(pipeline.completed(load(config))), entry, Path(), tables=tables)


def algorithm_of(context):
    return parse(context.tables.algorithms[context.entry.algorithm], context.entry.hyper, "hyper")


def test_a_reward_in_the_loss_is_planned_without_its_files():
    """Its weights are shapes, and so is what it reads in scenes; the adapter that the entry comes after is there."""
    context = entry_of("uper:tiny", "follow")
    algorithm = algorithm_of(context)
    with small_storybook():
        trainee = abstract_trainee(context, TINY_FLOW, algorithm)
        batch = batch_shapes(algorithm.batch, trainee.base, 4, trainee.reward)
    assert all(".adapters.follow." in name for name in trainee.params)
    assert any(".adapters.sft." in name for name in trainee.frozen)
    judging = below("reward", trainee.frozen)
    assert judging.keys() == trainee.reward.axes.keys()
    assert {name.partition(".")[0] for name in judging} == {"by_text", "by_subject"}
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(batch)) and batch["context"].mean.shape == (4, 2)


@pytest.mark.parametrize("reward", ["raters", "trained"])
def test_a_reward_without_shapes_is_not_planned(reward):
    config = load("uper:tiny")
    config.by_text.reward = reward
    context = Context(FrozenConfigDict(pipeline.completed(config)), "follow", Path(), tables=pipeline.default_tables())
    with pytest.raises(InputError):
        abstract_trainee(context, TINY_FLOW, algorithm_of(context))


@pytest.mark.slow
def test_each_step_of_a_rollout_counts():
    """Also where the step that it ends before is drawn: what is planned ends before the middle of the window."""
    context, found = entry_of("uper:tiny", "follow"), []
    algorithm = replace(algorithm_of(context), flow_matching=0.0)
    with small_storybook():
        trainee = abstract_trainee(context, TINY_FLOW, algorithm)
        batch = batch_shapes(algorithm.batch, trainee.base, 2, trainee.reward)
        for window in ((0, 1), (1, 2), (2, 3), (1, 3)):
            planned = replace(algorithm, window=window).steadied()
            traced = jax.make_jaxpr(lambda *given, run=planned: gradients(run, trainee, *given, jax.random.key(0)))
            found.append(flops(live(traced(trainee.params, trainee.frozen, batch))).spread)
    none, one, two, middle = found
    assert two - one == one - none > 0.05 * none and middle == two


@pytest.mark.slow
def test_reward_feedback_learning_on_devices():
    """The planned step compiles, its reward's weights over the mesh as those of the generator are."""
    mesh = make_mesh({"data": -1})
    with small_storybook():
        programs = [train_program(entry_of("uper:tiny", name), mesh) for name in ("follow", "sft")]
        following, learning = (program.trace() for program in programs)
        done = following.lower().compile()
    assert flops(live(following.jaxpr)).spread > 2 * flops(live(learning.jaxpr)).spread
    told = programs[0].argument_bytes()  # with what nothing reads, as the scale of CLIP's logits
    assert 0.999 * told < done.memory_analysis().argument_size_in_bytes <= told
    _, metrics = following.out_info
    assert {"reward/by_text", "pull/by_subject", "error"} <= metrics.keys()


def test_flops_of_a_network_are_those_that_its_compiler_counts():
    generator, shapes = TINY_FLOW.abstract()
    asked = batch_shapes("scenes", generator, 2)["conditioning"]
    noisy, t = jax.ShapeDtypeStruct((2, *generator.latent_shape), "float32"), jax.ShapeDtypeStruct((2,), "float32")

    def run(params, noisy, t, asked):
        return generator.denoise(params, noisy, t, asked, None)

    mine = flops(live(jax.make_jaxpr(run)(shapes, noisy, t, asked))).spread
    theirs = jax.jit(run).lower(shapes, noisy, t, asked).cost_analysis()["flops"]  # all operations, ours products only
    assert mine == pytest.approx(theirs, rel=0.1) and mine < theirs


@pytest.mark.slow
def test_what_is_kept_trades_memory_for_recomputation():
    preset = replace(TINY_FLOW, transformer=replace(TINY_FLOW.transformer, scanned=True, double_blocks=3))
    context, found = entry_of("adpo:tiny", tiny=preset), {}
    for kept in ("all", "nothing"):
        program = train_program(context, make_mesh({"data": -1}), kept)
        jaxpr = live(program.trace().jaxpr)
        alive = held(jaxpr, [True] * program.weights + [False] * (len(jaxpr.invars) - program.weights))
        found[kept] = alive.peak, flops(jaxpr).spread
        assert 2 * stacked_bytes(preset) < alive.gathered < 8 * stacked_bytes(preset)
    assert found["all"][0] > 1.2 * found["nothing"][0] and found["all"][1] < found["nothing"][1]


def stacked_bytes(preset):
    _, shapes = preset.abstract()
    return sum(leaf.size * leaf.dtype.itemsize for name, leaf in shapes.items() if "_blocks" in name)


def test_shapes_of_a_batch_are_those_of_a_real_one(tiny_generator):
    generator, params = tiny_generator
    from narrative_jax.data.sources import storybook_scenes

    real = generator.encode(params, storybook_scenes("tune", 3))
    planned = batch_shapes("preferences", generator, 3)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), real) == jax.tree.map(
        lambda x: (x.shape, x.dtype), planned["conditioning"]
    )
    assert planned["chosen"].shape == (3, *generator.latent_shape) and planned["gap"].shape == (3,)


@pytest.fixture
def small_nireward(monkeypatch):
    """NIReward's 7B, small."""
    tower = VisionTowerConfig(patch_size=8, merge=2, width=16, heads=2, blocks=1, mlp_width=32)
    network = VlmConfig(768, 64, 4, 4, 3, 96, False, (2, 3, 3), tower, scanned=True, kept="nothing")
    sizes = {"7B": (network, Room(side=32, tokens=128, max_subjects=2, critique=8))}
    monkeypatch.setattr("narrative_jax.rewards.new_nireward.NIREWARD_SIZES", sizes)


def test_a_reward_that_criticises_is_planned_without_its_files(small_nireward):
    """Its adapter trains, 64 sequences of 32 pairs; what is worked out again is no useful arithmetic."""
    context = entry_of("nireward:7B", "nireward")
    program = train_program(context, make_mesh({"data": -1}))
    state, frozen, batch = program.arguments
    assert state.params and all(".adapters.nireward." in name for name in state.params)
    assert not any(".adapters." in name for name in frozen) and "reward.kernel" in frozen
    assert (program.unit, program.rows) == ("pairs", 32) and batch["better"].shape == (32, 3)
    executed, useful = flops(live(program.trace().jaxpr)).spread, program.useful().spread
    assert useful < executed < 1.6 * useful
    scoring = scoring_program(context, make_mesh({"data": -1}))
    _, scores = scoring.trace().out_info
    assert scores.shape == (32, 3) and 0.07 < flops(live(scoring.trace().jaxpr)).spread / useful < 0.5


def test_what_no_plan_has_of_a_reward(capsys):
    """One that only describes, one that gives no shapes, drawing without a generator, and a search of meshes."""
    told = [
        (["--only=sampling"], "unknown program to plan 'sampling': known are nireward, scoring"),
        (["--search"], "--search: it ranks ways to train a generator, and this config trains none; leave it out"),
    ]
    for flags, message in told:
        assert plan.main(["--config=nireward:7B", "--topology=v5e:4x4", *flags]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="a step that learns from descriptions: the step that learns from annotations"):
        train_program(entry_of("nireward", "seeing"), make_mesh({"data": -1}))
    with pytest.raises(InputError, match="reward 'scalar' of scalar: a step is planned from shapes, and it gives none"):
        train_program(entry_of("reward", "scalar"), make_mesh({"data": -1}))


def test_the_longest_time_binds():
    found = report.roofline({"compute": 2.0, "memory": 0.5, "links": 3.0})
    assert found == {"roofline_seconds": 3.0, "binding": "links"}
    numbers = report_of(rows=64, roofline_seconds=4.0)
    assert numbers.per_second == 16 and numbers.days(16 * 86_400) == 1
    assert report_of(rows=64).per_second is None and report_of(rows=64).days(5) is None


def report_of(**changes):
    usual = dict.fromkeys(("runs", "accumulate", "chips"), 1) | {"program": "align", "unit": "pairs", "fits": False}
    usual |= {"hbm_bytes_per_chip": 20 * 2**30, "hbm_capacity_bytes": 16 * 2**30, "argument_bytes_per_chip": 4 * 2**30}
    usual |= dict.fromkeys(("flops_per_chip", "executed_flops_per_chip", "compute_seconds", "compile_seconds"), 1.0)
    return report.Report(**usual | changes)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (15.91G) exceeds available HBM (15.75G). HLO module: jit_step.", 15.91),
        ("RESOURCE_EXHAUSTED: Used 1.5T of 95.73G hbm. Exceeded hbm capacity by 1.4T.", 1536),
        ("RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom: Scoped allocation with size 16.59M", None),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_needed(message, gib):
    assert report.needed_bytes(message) == (gib and round(gib * 2**30))


def test_what_slices_send_each_other_goes_over_the_network():
    """Sends are told apart from rings over the links, and take the time of the slower way."""
    chip = topologies.chip_of("v5e:2x2")
    moved = {"all-gather": 4e9, "send": 1e9}
    times = report.times(2.0, 8.19e11, moved, chip)
    assert times == {"compute": 2.0, "memory": 1.0, "links": 0.02, "network": 0.32}
    told = words.figures(
        report_of(
            rows=4,
            **report.roofline({"network": 0.32}),
            collective_bytes_per_chip=moved,
            hbm_seconds=1.0,
            hbm_traffic_bytes_per_chip=0,
            collective_seconds=0.02,
            collectives_outside_loops_bytes_per_chip=0,
            network_seconds=0.32,
        ),
        None,
    )
    assert told["links"] == "20.0 ms (4.00 GB of results)" and told["between slices"] == "320.0 ms"


def test_what_would_make_it_fit():
    crowded = report.remedies(report_of(rows=8), 2, "all")
    assert crowded[0] == "about 3 pairs a chip at once instead of 4, by a smaller batch or accumulate"
    assert crowded[1].startswith("kept=nothing")
    full = report.remedies(report_of(rows=8, argument_bytes_per_chip=17 * 2**30), 2, "nothing")
    assert full == ["a larger fsdp: arguments alone take 17.0 GiB"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--topology=v5p:4x4x4",), "--config: it is a recipe or a config file"),
        (("--config=adpo:flux",), "--topology: it is kind of chip and slice of them"),
        (("--config=adpo:flux", "--topology=v5e"), "topology 'v5e': it is a kind of chip and a slice of them"),
        (("--config=adpo:flux", "--topology=v9:2x2"), "unknown kind of chip 'v9': known are v5p, v5e, v6e"),
        (("--config=adpo:flux", "--topology=v5e:32x32"), "unknown slice of v5e '32x32': known are 1x1, 2x2, 2x4"),
        (("--config=adpo:flux", "--topology=v5e:2x2", "--slices=0"), "--slices 0: --slices is an integer ≥ 1"),
        (("--config=adpo:flux", "--topology=v5e:2x2", "--tflops=-1"), "--tflops -1: it is a number > 0"),
        (("--config=adpo:flux", "--topology=v5e:2x2", "--slice=2"), "unknown flag '--slice'"),
        (("--config=adpo:flux", "--topology=v5e:2x2", "--config.mehs.fsdp=2"), "unknown config key 'mehs.fsdp'"),
        (("--config=adpo:flux", "--topology=v5e:2x2", "--only=aling"), "unknown program to plan 'aling'"),
        (("--config=score", "--topology=v5e:2x2"), "none of them trains the generator"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    assert plan.main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_bad_input_of_any_program_is_told_before_one_is_compiled(monkeypatch):
    """Of what draws, although the train step comes first and is in order."""

    def compiled(*_):
        raise AssertionError("it compiles")

    monkeypatch.setattr(planner, "devices_of", lambda *_: jax.devices())
    monkeypatch.setattr(planner, "compiled", compiled)
    config = load("adpo:tiny")
    for steps, error, message in ((0, InputError, "num_steps 0"), (2, AssertionError, "it compiles")):
        config.sampling.num_steps = steps
        with pytest.raises(error, match=message):
            plan_of(FrozenConfigDict(pipeline.completed(config)), Asked("v5e:1x1"), pipeline.default_tables())


def test_what_does_not_fit_says_by_how_much(monkeypatch, capsys):
    """Of what trains also what blocks keep; the numbers are given all the same."""

    def compiled(program, chips, chip):
        binds = {"program": program.name, "rows": program.rows, "binding": "compute", "roofline_seconds": 1.0}
        nothing = ("hbm_seconds", "hbm_traffic_bytes_per_chip", "collective_seconds", "network_seconds")
        nothing += ("collectives_outside_loops_bytes_per_chip",)
        return report_of(**dict.fromkeys(nothing, 0.0), collective_bytes_per_chip={}, **binds)

    monkeypatch.setattr(planner, "devices_of", lambda *_: jax.devices())
    monkeypatch.setattr(planner, "compiled", compiled)
    monkeypatch.setattr(planner, "version", lambda package: "")
    config = FrozenConfigDict(pipeline.completed(load("adpo:tiny")))
    found = plan_of(config, Asked("v5e:1x1"), pipeline.default_tables())
    told = capsys.readouterr().out
    assert [each["program"] for each in found["programs"]] == ["align", "sampling"]
    assert told.count("4.00 GiB a chip too much") == 2 and told.count("kept=") == 1


def test_ones_own_chip():
    chip = topologies.chip_of("v5e:2x2", tflops=100, link_gbs=50, network_gbs=3, hbm_gib=8)
    assert chip == topologies.Chip(100e12, 819e9, 50e9, 3e9, 8 * 2**30)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(topologies, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'narrative_jax\[tpu\]'"):
        topologies.devices_of("v5e:2x2")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"tensor": 16}, "mesh tensor 16: it divides the network's heads, 24; set tensor to 12"),
        ({"fsdp": 4096}, "mesh fsdp 4096: it divides the network's width, 3072; set fsdp to 3072"),
        ({"context": 3}, "mesh context 3: it divides the network's text tokens, 512; set context to 2"),
    ],
)
def test_axes_that_do_not_divide_the_network(sizes, said):
    with pytest.raises(InputError) as error:
        check_divided(FLUX_DEV.divided, {"fsdp": 1, "tensor": 1, "context": 1, **sizes})
    assert str(error.value) == said


@pytest.mark.slow
def test_a_plan_from_end_to_end(tmp_path, capsys):
    """A small FLUX for four v5e: the compiled numbers agree with those that are known."""
    pytest.importorskip("libtpu")
    small = replace(
        FLUX_DEV, image_size=256, subject_size=256, text_length=128,
        transformer=replace(FLUX_DEV.transformer, heads=2, double_blocks=1, single_blocks=2, text_dim=256),
    )  # fmt: skip
    tables, config = pipeline.default_tables(), load("adpo:flux")
    config.mesh = {"data": 1, "fsdp": 4, "tensor": 1}
    config.align.batch_size, config.sampling.batch_size = 8, 4
    asked, tables = Asked("v5e:2x2", pairs=1000), replace(tables, presets={"flux": small})
    told = plan_of(FrozenConfigDict(pipeline.completed(config)), asked, tables)
    train, sampling = json.loads(json.dumps(told))["programs"]
    assert told["chips"] == 4 and train["fits"] and train["records"] == 1000
    assert train["executed_flops_per_chip"] > train["flops_per_chip"] > sampling["flops_per_chip"] / 28
    weights = stacked_bytes(small)
    # Each of 28 steps gathers all weights over fsdp, and so do the subjects before; the train step several times.
    assert 28 < sampling["collective_bytes_per_chip"]["all-gather"] / weights < 31
    assert 2 < train["collective_bytes_per_chip"]["all-gather"] / weights < 8
    assert train["roofline_seconds"] == max(train[f"{kind}_seconds"] for kind in ("compute", "hbm", "collective"))
    assert "| pairs a second" in capsys.readouterr().out


def test_a_search_tells_what_is_not_the_meshes_fault():
    """The optimiser's rule, which every layout breaks, and not that none divides the network."""
    context = entry_of("configs/adpo.py:flux", "align")
    config = ConfigDict(context.config.to_dict())
    config.align.optimizer.warmup_steps = config.align.total_steps + 1
    context, devices = replace(context, config=FrozenConfigDict(config)), [SimpleNamespace(slice_index=0)] * 4
    with pytest.raises(InputError, match="warmup_steps"):
        candidates(context, devices, topologies.CHIPS["v5p"])
