"""The aesthetic score: LAION's head on the embedding that CLIP gives of the cropped picture."""

import numpy as np
from small_rewards import clip_network, clip_params, pictures, scenes, small_aesthetic

from narrative_jax.core.mesh import make_mesh
from narrative_jax.models.preprocessing import CLIP, normalise, shortest_side_crop
from narrative_jax.rewards.base import OnHost


def test_the_score_is_the_heads(random_weights):
    reward, images = small_aesthetic(random_weights), pictures(3)
    network, params = clip_network()[0], clip_params(random_weights)
    _, embeddings = network.bind(params)(np.zeros((1, 8), int), normalise(shortest_side_crop(images, 12, 12), CLIP))
    head = reward.head_params
    hidden = embeddings @ head["layers.0.kernel"] + head["layers.0.bias"]
    expected = hidden @ head["layers.2.kernel"] + head["layers.2.bias"]
    scores = reward.score(reward.params, images, reward.encode(scenes(0, 0, 0)))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(scores) > 0.01
    assert (reward.name, reward.aspects) == ("aesthetic_v2", ("aesthetic_v2",))


def test_it_needs_no_subjects_and_no_prompt_on_the_host(random_weights):
    reward, images = small_aesthetic(random_weights), pictures(3)
    drawn = np.uint8(np.round((images + 1) * 127.5))
    scores = OnHost(reward, 2, make_mesh({"data": -1})).score_images(drawn, scenes(0, 0, 0), None)
    np.testing.assert_allclose(scores, reward.score(reward.params, images, ()), atol=0.02)
