"""Algorithms by golden values, and the same on one device, on eight and in parts."""

import os
import subprocess
import sys
from dataclasses import replace

import gradients_on_meshes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients_on_meshes import CASES, MESHES
from linear_training import Linear, make_batch, make_trainee

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.algorithms.contrastive import Contrastive
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.algorithms.reward_modelling import RewardModelling
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.errors import InputError
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW
from narrative_jax.losses.preference import adaptive_beta
from narrative_jax.models.layers import unit
from narrative_jax.trainees.reward import RewardTrainee
from narrative_jax.training.step import gradients

DIFFERENCES = ("margin", "chosen_error_rise", "rejected_error_rise", "reward")  # z-scores are differences too


def relative_error(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.fixture(scope="module")
def on_meshes(tmp_path_factory):
    """Results by mesh, from processes with 8 devices."""
    folder, names = tmp_path_factory.mktemp("meshes"), ("one", *MESHES)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = (sys.executable, gradients_on_meshes.__file__)
    started = [
        subprocess.Popen([*command, name, folder / f"{name}.npz"], env={**os.environ, **flags}) for name in names
    ]
    assert not any([process.wait() for process in started])
    return {name: dict(np.load(folder / f"{name}.npz")) for name in names}


def worst(found, expected, denoising_error):
    """What has the largest relative error, and that error; of gradients over the whole tree.

    Margins and gains are differences of denoising errors, and known as well as these; so are z-scores, of rewards.
    """
    errors = {}
    for name, value in expected.items():
        kind = "gradient" if name.startswith("gradient ") else name
        apart, scale = errors.get(kind, (0.0, 0.0))
        scale = denoising_error if name in DIFFERENCES else max(scale, np.abs(value).max())
        errors[kind] = max(apart, np.abs(found[name] - value).max()), scale
    errors = {kind: apart / scale if scale else apart for kind, (apart, scale) in errors.items()}
    return max(errors.items(), key=lambda item: item[1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_equal_one(on_meshes, case, mesh):
    here, one = (
        {key.partition("/")[2]: value for key, value in on_meshes[name].items() if key.startswith(f"{case}/")}
        for name in (mesh, "one")
    )
    assert one.pop("spread") == 0 and (here.pop("spread") > 0) == (mesh in ("cube", "fsdp8"))
    gathered, width = here.pop("gathered").tolist(), STORYBOOK_FLOW.transformer.width
    assert not one.pop("gathered").tolist() and (mesh == "data8" or gathered)
    # Kernels that meet one token an example stay where they are.
    assert not [shape for shape in gathered if shape.endswith((f"{width},{3 * width}", f"{width},{6 * width}"))]
    assert here.keys() == one.keys() and sum(name.startswith("gradient") for name in one) > 10
    largest = worst(here, one, denoising_error=on_meshes["one"]["sft/error"])
    assert largest[1] <= 1e-5, largest


@pytest.mark.slow
def test_eight_devices_draw_as_one(on_meshes):
    one, *others = (on_meshes[name]["drawing/pictures"].astype(int) for name in ("one", *MESHES))
    assert len(one) == 5 and len({picture.tobytes() for picture in one}) == 5 and one.std() > 20
    for pictures in others:
        assert np.abs(pictures - one).max() <= 1
    sizes = {name: int(found["drawing/batch_size"]) for name, found in on_meshes.items()}
    filled = {"one": 5, "data8": 8, "cube": 8, "fsdp8": 8, "context2": 8}
    assert sizes == filled, "five, and what fills them up to the devices of a batch"


@pytest.mark.parametrize(
    "algorithm", [SFT(text_dropout=0.5), DPO(beta=20.0, eta=0.5, b=0.5, imitation=0.3, preserve=0.7)]
)
def test_parts_equal_the_whole(algorithm):
    trainee = make_trainee(delta=1.0)
    _, batch = make_batch(range(8), algorithm="sft" if isinstance(algorithm, SFT) else "dpo")
    (whole, metrics), (parts, metrics_of_parts) = (
        gradients(algorithm, trainee, trainee.params, trainee.frozen, batch, jax.random.key(0), accumulate)
        for accumulate in (1, 4)
    )
    largest = worst({**parts, **metrics_of_parts}, {**whole, **metrics}, denoising_error=2.0)
    assert largest[1] <= 1e-6, largest


def run_loss(algorithm, trainee, batch, seed=0):
    return algorithm.loss(trainee.models(trainee.params, trainee.frozen), batch, jax.random.key(seed))


def numbered(algorithm="sft"):
    """A batch of eight with their places in it, as the step numbers them."""
    _, batch = make_batch(range(8), algorithm=algorithm)
    return {**batch, "index": np.arange(8, dtype=np.int32)}


def draws(splits, seed=0):
    """The keys that each example's draws are made from, [b][splits]."""
    keys = [jax.random.fold_in(jax.random.key(seed), place) for place in range(8)]
    return [jax.random.split(key, splits) for key in keys]


def numpy_errors(weights, clean, noise, t, conditioning):
    """Velocity errors of the linear denoiser, f64[b]."""
    clean, noise, t = np.float64(clean), np.float64(noise), np.float64(t)[:, None, None]
    predicted = ((1 - t) * clean + t * noise) @ np.float64(weights) + np.float64(conditioning)[:, None]
    return np.square(predicted - (noise - clean)).mean((1, 2))


def test_sft_by_hand():
    trainee, batch = make_trainee(delta=1.0), numbered()
    t, noise, dropped = [], [], []
    for time_key, noise_key, drop_key in draws(3):
        t.append(jax.random.uniform(time_key))
        noise.append(jax.random.normal(noise_key, batch["latents"].shape[1:]))
        dropped.append(bool(jax.random.bernoulli(drop_key, 0.5)))
    assert 0 < sum(dropped) < 8
    conditioning = np.where(np.array(dropped)[:, None], 0, batch["conditioning"])
    weights = trainee.frozen["kernel"] + trainee.params["delta"]
    expected = numpy_errors(weights, batch["latents"], noise, t, conditioning)
    loss = run_loss(SFT(text_dropout=0.5), trainee, batch)
    assert float(loss.weight) == 8
    assert float(loss.sum) == pytest.approx(expected.sum(), rel=1e-6)
    assert float(loss.metrics["error"]) == float(loss.sum)


def test_what_guidance_compares_with_is_dropped():
    """Text alone from the one share, subjects only where the text goes too."""
    batch = {"latents": np.zeros((2000, 3, 16), np.float32), "conditioning": np.zeros((2000, 1))}
    batch["index"] = np.arange(2000)
    found = []

    class Seen(Linear):
        def drop(self, conditioning, *, text=None, subjects=None):
            return (1.0 * text + 2.0 * subjects)[:, None]

        def denoise(self, params, noisy, t, conditioning, prepared):
            found.append(np.asarray(conditioning[:, 0]))
            return noisy

    SFT(text_dropout=0.3, subject_dropout=0.2).loss(Models(Role(Seen(), {})), batch, jax.random.key(0))
    shares = {kind: (found[0] == kind).mean() for kind in (0, 1, 2, 3)}
    assert shares[2] == 0 and shares[1] == pytest.approx(0.3, abs=0.03) and shares[3] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("alike", [False, True])
def test_what_is_prepared_alike_is_prepared_once(alike):
    """The reference's serves the policy too where nothing that is trained has a part in it."""
    prepared, seen = [], []

    class Preparing(Linear):
        def prepares_as(self, base):
            return alike

        def prepare(self, params, conditioning):
            prepared.append(params)
            return len(prepared)

        def denoise(self, params, noisy, t, conditioning, prepared):
            seen.append((sorted(params), prepared))
            return noisy

    policy, reference = Role(Preparing(), {"kernel": 0, "delta": 0}), Role(Preparing(), {"kernel": 0})
    DPO().loss(Models(policy, reference), {**numbered("dpo"), "index": np.arange(8)}, jax.random.key(0))
    assert dict((len(names), which) for names, which in seen) == ({2: 1, 1: 1} if alike else {2: 2, 1: 1})


@pytest.mark.parametrize("adaptive", [False, True])
def test_dpo_by_hand(adaptive):
    trainee, batch = make_trainee(delta=1.0), numbered("dpo")
    algorithm = DPO(beta=20.0, **({"eta": 0.5, "k": 2.0, "b": 0.3} if adaptive else {}))
    t, noise = [], []
    for time_key, noise_key, _ in draws(3):
        t.append(jax.random.uniform(time_key))
        noise.append(jax.random.normal(noise_key, batch["chosen"].shape[1:]))
    base = trainee.frozen["kernel"]
    errors = {
        (role, member): numpy_errors(weights, batch[member], noise, t, batch["conditioning"])
        for role, weights in (("policy", base + trainee.params["delta"]), ("reference", base))
        for member in ("chosen", "rejected")
    }
    gains = {m: errors["policy", m] - errors["reference", m] for m in ("chosen", "rejected")}
    margin = -(gains["chosen"] - gains["rejected"])
    beta = 20.0 * (1 + 0.5 * (1 - np.exp(-2.0 * (np.float64(batch["gap"]) - 0.3)))) if adaptive else np.full(8, 20.0)
    expected = -np.log(1 / (1 + np.exp(-beta / 2 * margin)))
    loss = run_loss(algorithm, trainee, batch)
    assert float(loss.sum) == pytest.approx(expected.sum(), rel=1e-5)
    for name, values in {
        "margin": margin,
        "beta": beta,
        "implicit_accuracy": margin > 0,
        "chosen_error_rise": gains["chosen"],
        "rejected_error_rise": gains["rejected"],
    }.items():
        rounding = 1e-7 * sum(map(np.sum, errors.values()))
        assert float(loss.metrics[name]) == pytest.approx(values.sum(), rel=1e-6, abs=rounding), name
    assert 0 < (margin > 0).sum() < 8


def test_dpo_begins_at_log_2():
    trainee, batch = make_trainee(delta=0.0), numbered("dpo")
    loss = run_loss(DPO(preserve=0.5), trainee, batch)
    assert float(loss.metrics["margin"]) == float(loss.metrics["chosen_error_rise"]) == 0
    assert float(loss.sum) == pytest.approx(8 * np.log(2), rel=1e-7)
    assert float(loss.metrics["implicit_accuracy"]) == 0, "a tie is not right"


def test_swapping_a_pair_negates_its_margin():
    trainee, batch = make_trainee(delta=1.0), numbered("dpo")
    swapped = {**batch, "chosen": batch["rejected"], "rejected": batch["chosen"]}
    one, other = (run_loss(DPO(), trainee, each).metrics["margin"] for each in (batch, swapped))
    assert float(one) == -float(other) != 0


def test_no_gradient_reaches_the_reference():
    trainee, batch = make_trainee(delta=1.0), numbered("dpo")

    def through_reference(frozen):
        models = trainee.models(trainee.params, frozen)
        policy = models.policy._replace(params={**trainee.params, **trainee.frozen})
        return DPO().loss(models._replace(policy=policy), batch, jax.random.key(0)).sum

    assert not np.any(jax.grad(through_reference)(trainee.frozen)["kernel"])


def test_preserving_changes_the_gradient_not_the_loss():
    trainee, batch = make_trainee(delta=1.0), numbered("dpo")
    found = {
        preserve: gradients(
            DPO(beta=20.0, preserve=preserve), trainee, trainee.params, trainee.frozen, batch, jax.random.key(0)
        )
        for preserve in (None, 0.7, 1.0)
    }
    (plain, metrics), (kept, kept_metrics), (chosen_only, _) = (found[preserve] for preserve in (None, 0.7, 1.0))
    assert float(kept_metrics["loss"]) == float(metrics["loss"])
    assert "rejected_scale" not in metrics and 0 < float(kept_metrics["rejected_scale"]) < 1
    assert relative_error(kept["delta"], plain["delta"]) > 0.01
    assert relative_error(chosen_only["delta"], kept["delta"]) > 0.01


def test_imitation_adds_the_gradient_of_sft_on_the_chosen():
    """As many times as λ and a pair's β(a) / 2 say, by the same times and noise; the loss stays where it began."""
    trainee, batch = make_trainee(delta=1.0), numbered("dpo")
    adaptive = DPO(beta=20.0, eta=0.5, b=0.5)
    beta = adaptive_beta(batch["gap"], beta=20.0, eta=0.5, k=1.0, b=0.5)
    assert np.ptp(beta) > 1

    def found(algorithm):
        return gradients(algorithm, trainee, trainee.params, trainee.frozen, batch, jax.random.key(0))

    def sft(params):
        """By itself, each example weighed."""
        examples = {"latents": batch["chosen"], "conditioning": batch["conditioning"], "index": batch["index"]}
        rows = [jax.tree.map(lambda x, row=row: x[row : row + 1], examples) for row in range(8)]
        models = trainee.models(params, trainee.frozen)
        losses = [SFT(text_dropout=0.0).loss(models, row, jax.random.key(0)).sum for row in rows]
        return sum(0.3 * each / 2 * loss for each, loss in zip(beta, losses, strict=True)) / 8

    (plain, metrics), (both, more) = found(adaptive), found(replace(adaptive, imitation=0.3))
    (kept, _), (kept_too, _) = (found(replace(adaptive, preserve=0.7, imitation=weight)) for weight in (0.0, 0.3))
    expected = jax.grad(sft)(trainee.params)["delta"]
    assert relative_error(both["delta"] - plain["delta"], expected) <= 1e-5
    assert relative_error(kept_too["delta"] - kept["delta"], expected) <= 1e-5
    assert relative_error(both["delta"], plain["delta"]) > 0.1
    assert float(more["loss"]) > float(metrics["loss"]), "the chosen error is above the reference's here"
    start = run_loss(replace(adaptive, imitation=0.3), make_trainee(delta=0.0), batch)
    assert float(start.sum) == pytest.approx(8 * np.log(2), rel=1e-6)


def test_noise_follows_the_place_in_the_global_batch():
    trainee, batch = make_trainee(delta=1.0), numbered()
    whole = run_loss(SFT(), trainee, batch)
    plain = {name: value for name, value in batch.items() if name != "index"}
    _, metrics = gradients(SFT(), trainee, trainee.params, trainee.frozen, plain, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(float(whole.sum) / 8, rel=1e-6), "the step numbers them"
    halves = [run_loss(SFT(), trainee, jax.tree.map(lambda x, p=part: x[p], batch)) for part in (slice(4), slice(4, 8))]
    assert float(sum(half.sum for half in halves)) == pytest.approx(float(whole.sum), rel=1e-6)
    assert float(run_loss(SFT(), trainee, batch, seed=1).sum) != float(whole.sum)


def test_contrastive_accuracy():
    class Towers:
        logit_scale = jnp.float32(2.0)

        def __call__(self, tokens, images):
            return tokens, images

    class Model:
        network = type("Network", (), {"bind": staticmethod(lambda params: Towers())})

    eye = jnp.eye(4)
    batch = {"first": eye, "second": eye[jnp.array([0, 1, 3, 2])], "index": jnp.arange(4)}
    loss = Contrastive().loss(Models(Role(Model, None)), batch, None)
    assert float(loss.metrics["accuracy"]) == 2
    logits = np.exp(2.0) * np.eye(4)[[0, 1, 3, 2]]
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(loss.sum) == pytest.approx(-np.log(np.diag(rows)).sum(), rel=1e-6)


def test_adversarial_pairs_are_found_less():
    """Each pixel moves by `ascent` at most and stays in the range; the loss rises by more than for random moves."""
    rng = np.random.default_rng(0)
    weights, seen = np.float32(rng.normal(size=(12, 4))), []

    class Towers:
        logit_scale = jnp.float32(2.0)

        def __call__(self, first, pictures):
            seen.append(pictures)
            return (unit(each.reshape(len(each), -1) @ weights) for each in (first, pictures))

    class Model:
        network = type("Network", (), {"bind": staticmethod(lambda params: Towers())})

    first, second = np.float32(rng.uniform(-1, 1, (2, 16, 2, 2, 3)))
    batch = {"first": first, "second": second, "index": jnp.arange(16)}

    def loss(ascent, pictures=second):
        algorithm, models = Contrastive(ascent=ascent), Models(Role(Model, None))
        return float(algorithm.loss(models, {**batch, "second": pictures}, jax.random.key(0)).sum)

    plain, worse = loss(0.0), loss(0.1)
    moved = np.asarray(seen[-1])
    assert np.abs(moved - second).max() <= 0.1 + 1e-6 and np.abs(moved).max() <= 1
    assert worse == pytest.approx(loss(0.0, moved))
    by_chance = [loss(0.0, np.clip(second + 0.1 * rng.choice([-1, 1], second.shape), -1, 1)) for _ in range(20)]
    assert worse > plain and worse > np.max(by_chance)
    assert len({loss(0.1) for _ in range(2)}) == 1


class LinearReward:
    """The scene's number times the picture's brightness, seen through `weight`."""

    @staticmethod
    def score(params, images, context):
        return (images.reshape(len(images), -1) @ params["weight"] * context["factor"])[:, None]


def preferences(size=8):
    """A linear reward, and a batch of preferences of which some are ties."""
    rng = np.random.default_rng(4)
    chosen, rejected = np.float32(rng.normal(size=(2, size, 2, 3, 3)))
    context = {"factor": np.float32(rng.uniform(0.2, 2, size))}
    batch = {"chosen": chosen, "rejected": rejected, "context": context, "index": np.arange(size)}
    weights = {"weight": np.float32(0.3 * rng.normal(size=18))}
    trainee = RewardTrainee(None, None, None, policy=LinearReward, params=weights, frozen={})
    return trainee, batch | {"tie": np.arange(size) % 3 == 0}


def test_reward_modelling_by_hand():
    """Each pair pulls by (σ(difference) - 1), a tie by (σ(difference) - ½), along what tells its pictures apart."""
    trainee, batch = preferences()
    apart = np.float64(batch["chosen"] - batch["rejected"]).reshape(8, -1) * batch["context"]["factor"][:, None]
    difference = apart @ trainee.params["weight"]
    likely = 1 / (1 + np.exp(-difference))
    loss = np.where(batch["tie"], -(np.log(likely) + np.log(1 - likely)) / 2, -np.log(likely))
    pull = likely - np.where(batch["tie"], 0.5, 1)
    found, metrics = gradients(RewardModelling(), trainee, trainee.params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(found["weight"], pull @ apart / 8, rtol=1e-5, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(loss.mean(), rel=1e-6)
    assert float(metrics["accuracy"]) == (difference > 0).mean() and 0 < (difference > 0).sum() < 8


def test_parts_of_preferences_equal_the_whole():
    trainee, batch = preferences()
    (whole, metrics), (parts, metrics_of_parts) = (
        gradients(RewardModelling(), trainee, trainee.params, {}, batch, jax.random.key(0), accumulate)
        for accumulate in (1, 4)
    )
    largest = worst({**parts, **metrics_of_parts}, {**whole, **metrics}, denoising_error=1.0)
    assert largest[1] <= 1e-6, largest


def test_an_untrained_reward_is_right_about_nothing():
    trainee, batch = preferences()
    loss = run_loss(RewardModelling(), replace(trainee, params={"weight": np.zeros(18, np.float32)}), batch)
    assert float(loss.sum) == pytest.approx(8 * np.log(2), rel=1e-6) and float(loss.weight) == 8
    assert float(loss.metrics["accuracy"]) == 0, "a tie is not right"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPO(beta=0.0), "beta 0.0: beta is a number > 0"),
        (lambda: DPO(beta=float("nan")), "beta nan"),
        (lambda: DPO(eta=1.0, k=1.0, b=1.0), "it must be positive"),
        (lambda: DPO(preserve=1.5), "preserve 1.5"),
        (lambda: DPO(imitation=-0.5), "imitation -0.5: imitation is a number ≥ 0"),
        (lambda: DPO(imitation=float("inf")), "imitation inf"),
        (lambda: SFT(text_dropout=-0.1), "text_dropout -0.1"),
        (lambda: Contrastive(ascent=-0.1), "ascent -0.1"),
        (lambda: Contrastive(ascent=float("inf")), "ascent inf"),
        (lambda: SFT(subject_dropout=1.5), "subject_dropout 1.5"),
        (lambda: SFT(text_dropout=0.6, subject_dropout=0.6), "text_dropout \\+ subject_dropout 1.2"),
    ],
)
def test_wrong_hyper_parameters(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Gaps


IDS = ("a over b", "c over d", "e over f")
NO_GAPS = np.full(3, np.nan)


def test_known_gaps_stay_as_they_are(capsys):
    gaps = np.array([0.2, 3.0, -0.4])
    for algorithm in (Algorithm(), DPO(eta=0.5, k=1.0, b=0.5)):
        np.testing.assert_array_equal(algorithm.usable_gaps(gaps, IDS), gaps)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("gaps", [np.array([0.2, np.nan, -90.0]), NO_GAPS], ids=["one", "all"])
def test_without_a_gap_beta_is_constant_and_is_said_to_be(capsys, gaps):
    algorithm = DPO(beta=300.0, eta=0.5, k=1.0, b=0.5)
    used = algorithm.usable_gaps(gaps, IDS)
    np.testing.assert_allclose(adaptive_beta(used, beta=300.0, eta=0.5, k=1.0, b=0.5), np.full(3, 300.0), rtol=1e-6)
    assert capsys.readouterr().out == f"{np.isnan(gaps).sum()} of 3 pairs have no gap: β is 300 for all\n"


@pytest.mark.parametrize("gaps", [np.array([0.2, 3.0, -90.0]), NO_GAPS], ids=["any", "none"])
def test_a_constant_beta_asks_for_no_gap(capsys, gaps):
    used = DPO(beta=300.0, b=0.5).usable_gaps(gaps, IDS)
    np.testing.assert_array_equal(adaptive_beta(used, beta=300.0, eta=0.0, k=1.0, b=0.5), np.full(3, 300.0))
    assert capsys.readouterr().out == ""


def test_a_gap_that_would_turn_a_pair_around_is_refused_by_name():
    """β(a) = β · (1 + ½ · (1 - e^(½ - a))) is 0 at a = ½ - ln 3."""
    algorithm, zero = DPO(eta=0.5, k=1.0, b=0.5), 0.5 - np.log(3)
    for gap, told, share in (
        (zero - 1e-9, "-0.599", "-1.5e-09"),
        (-2.0, "-2", "-4.59"),
        (-1e6, "-1e+06", "-5.07e+303"),
    ):
        with pytest.raises(InputError, match="it must be positive; lower eta or k, or screen by a rule") as caught:
            algorithm.usable_gaps(np.array([0.2, gap, -0.1]), IDS)
        assert str(caught.value).startswith(f"pair c over d with gap {told}: β(a) = ")
        assert f" would be {share} · β, " in str(caught.value)
    least = np.array([0.2, zero + 1e-6, -0.1])
    np.testing.assert_array_equal(algorithm.usable_gaps(least, IDS), least)
    assert (adaptive_beta(least, beta=500.0, eta=0.5, k=1.0, b=0.5) > 0).all()
