"""FLUX with subject branches in torch, over diffusers' modules with peft's adapter, and its DPO step."""

import diffusers
import numpy as np
import torch
from diffusers.models.embeddings import apply_rotary_emb
from peft import LoraConfig, inject_adapter_in_model
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from narrative_jax.diffusion.path import T_FLOOR
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.flow_transformer import FLUX_NAMES
from narrative_jax.models.lora import adapter_of

ADAPTER = "align"
BETA, LEARNING_RATE, B2, CLIP_NORM = 500.0, 1e-3, 0.99, 1.0
IMAGE = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")


def torch_names(names):
    """Our names of weights, the adapter's included, in diffusers' and peft's, and the layouts."""
    base = published_names({name: np.empty((1, 1)) for name in names if name.endswith("kernel")}, FLUX_NAMES)
    lora = {"a": "lora_A", "b": "lora_B"}
    for name in names:
        if adapter_of(name):
            layer, _, leaf = name.partition(".adapters.")
            key = base[f"{layer}.kernel"].key.removesuffix(".weight")
            yield name, f"{key}.{lora[leaf[-1]]}.{ADAPTER}.weight"


def flux(config):
    """diffusers' model of these sizes."""
    return diffusers.FluxTransformer2DModel(
        in_channels=config.channels,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        guidance_embeds=config.distilled_guidance,
        axes_dims_rope=config.axes_dim,
    )


def add_adapter(model, names, rank):
    """Give the layers that our adapter has peft's, the only one that trains; its parameters by our names."""
    keys = dict(torch_names(names))
    targets = sorted({key.split(".lora_")[0] for key in keys.values()})
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model, ADAPTER)
    parameters = dict(model.named_parameters())
    return {name: parameters[key] for name, key in keys.items()}


class BranchedFlux:
    """diffusers' Flux modules, run with subject branches that see only themselves.

    `adapted` False leaves the adapter out of all tokens. A branch's tokens never pass through it.
    """

    def __init__(self, model, positions, text_length):
        self.model = model
        text = np.zeros((text_length, 3))
        self.main = model.pos_embed(torch.from_numpy(np.concatenate([text, positions.noisy])))
        self.branches = model.pos_embed(torch.from_numpy(positions.subjects.reshape(-1, 3)))
        self.count = len(positions.subjects)

    def __call__(self, noisy, t, text, pooled, subjects, cached, adapted):
        model, n_text = self.model, text.shape[1]
        vector = model.time_text_embed(1000 * t, pooled)
        image, text = model.x_embedder(noisy), model.context_embedder(text)
        branch, cached = None if cached else self._embed(subjects, pooled), iter(cached or ())

        for block in model.transformer_blocks:
            image_hidden, *image_rest = block.norm1(image, emb=vector)
            text_hidden, *text_rest = block.norm1_context(text, emb=vector)
            from_text = project(block.attn, text_hidden, TEXT, adapted)
            from_image = project(block.attn, image_hidden, IMAGE, adapted)
            q, k, v = (torch.cat(both, 1) for both in zip(from_text, from_image, strict=True))
            q, k = turn(q, self.main), turn(k, self.main)
            branch, subject_k, subject_v = (None, *next(cached)) if branch is None else self._double(block, *branch)
            out = attend(q, torch.cat([k, subject_k], 1), torch.cat([v, subject_v], 1))
            attn = block.attn
            image_out, text_out = apply(attn.to_out[0], out[:, n_text:], adapted), out[:, :n_text]
            image = finish(image, image_out, image_rest, block.norm2, block.ff, adapted)
            text_out = apply(attn.to_add_out, text_out, adapted)
            text = finish(text, text_out, text_rest, block.norm2_context, block.ff_context, adapted)

        main = torch.cat([text, image], 1)
        for block in model.single_transformer_blocks:
            hidden, gate = block.norm(main, emb=vector)
            mlp = block.act_mlp(apply(block.proj_mlp, hidden, adapted))
            q, k, v = project(block.attn, hidden, IMAGE, adapted)
            q, k = turn(q, self.main), turn(k, self.main)
            branch, subject_k, subject_v = (None, *next(cached)) if branch is None else self._single(block, *branch)
            out = attend(q, torch.cat([k, subject_k], 1), torch.cat([v, subject_v], 1))
            main = main + gate[:, None] * apply(block.proj_out, torch.cat([out, mlp], -1), adapted)
        return model.proj_out(model.norm_out(main[:, n_text:], vector))

    @torch.no_grad()
    def prepare(self, subjects, pooled):
        """Keys and values of the subject tokens in every block."""
        branch, cached = self._embed(subjects, pooled), []
        for blocks, run in (
            (self.model.transformer_blocks, self._double),
            (self.model.single_transformer_blocks, self._single),
        ):
            for block in blocks:
                branch, *keys_values = run(block, *branch)
                cached.append(keys_values)
        return cached

    def _embed(self, subjects, pooled):
        vector = self.model.time_text_embed(torch.zeros(len(pooled)), pooled)
        return self.model.x_embedder(subjects.flatten(1, 2)), vector

    def _double(self, block, hidden, vector):
        normed, *rest = block.norm1(hidden, emb=vector)
        out, k, v = self._branch_attention(block.attn, normed)
        out = apply(block.attn.to_out[0], out, False)
        return (finish(hidden, out, rest, block.norm2, block.ff, False), vector), k, v

    def _single(self, block, hidden, vector):
        normed, gate = block.norm(hidden, emb=vector)
        mlp = block.act_mlp(apply(block.proj_mlp, normed, False))
        out, k, v = self._branch_attention(block.attn, normed)
        return (hidden + gate[:, None] * apply(block.proj_out, torch.cat([out, mlp], -1), False), vector), k, v

    def _branch_attention(self, attn, hidden):
        q, k, v = project(attn, hidden, IMAGE, False)
        q, k = turn(q, self.branches), turn(k, self.branches)
        out = attend(*(x.unflatten(1, (self.count, -1)).flatten(0, 1) for x in (q, k, v)))
        return out.reshape(hidden.shape), k, v


def apply(layer, x, adapted):
    return layer(x) if adapted else getattr(layer, "base_layer", layer)(x)


def project(attn, hidden, names, adapted):
    *layers, norm_q, norm_k = (getattr(attn, name) for name in names)
    q, k, v = (apply(layer, hidden, adapted).unflatten(-1, (attn.heads, -1)) for layer in layers)
    return norm_q(q), norm_k(k), v


def turn(x, rotation):
    return apply_rotary_emb(x, rotation, sequence_dim=1)


def attend(q, k, v):
    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return out.transpose(1, 2).flatten(2)


def finish(hidden, attended, rest, norm, feed_forward, adapted):
    gate, shift, scale, mlp_gate = (x[:, None] for x in rest)
    hidden = hidden + gate * attended
    first, _, last = feed_forward.net
    mlp = first.gelu(apply(first.proj, norm(hidden) * (1 + scale) + shift, adapted))
    return hidden + mlp_gate * apply(last, mlp, adapted)


class TorchTrainer:
    """The DPO step in torch, for a network that predicts the clean latents."""

    beta = BETA

    def __init__(self, network, parameters, times, *, cached, learning_rate=LEARNING_RATE):
        self.network, self.parameters, self.times, self.cached = network, parameters, times, cached
        self.optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, betas=(0.9, B2), weight_decay=0.0)

    def step(self, batch):
        t = torch.sigmoid(self.times.mean + self.times.std * torch.randn(len(batch["chosen"])))
        return self.update(self.loss(batch, t, torch.randn(batch["chosen"].shape)))

    def update(self, loss):
        """AdamW's step of a clipped gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP_NORM)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch, t, noise):
        clean = torch.cat([batch["chosen"], batch["rejected"]])
        t, noise = t.repeat(2), noise.repeat(2, 1, 1)
        noisy = (1 - t[:, None, None]) * clean + t[:, None, None] * noise
        text, pooled, subjects = batch["text"], batch["pooled"], batch["subjects"]
        cached = None
        if self.cached:
            cached = [[x.repeat(2, 1, 1, 1) for x in both] for both in self.network.prepare(subjects, pooled)]
        inputs = noisy, t, text.repeat(2, 1, 1), pooled.repeat(2, 1), subjects.repeat(2, 1, 1, 1), cached

        def errors(adapted):
            residual = (clean - self.network(*inputs, adapted)) / t.clamp(min=T_FLOOR)[:, None, None]
            return residual.square().mean((1, 2)).chunk(2)

        with torch.no_grad():
            chosen_reference, rejected_reference = errors(False)
        chosen, rejected = errors(True)
        margin = (rejected - rejected_reference) - (chosen - chosen_reference)
        return -logsigmoid(self.beta / 2 * margin).mean()
