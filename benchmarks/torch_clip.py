"""CLIP on PyTorch as fast as its own parts make it, for `on_device.py`: fused attention and AdamW, autocast."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class QuickGELU(nn.Module):
    """Of the published models."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm residual block, [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int, hidden: int, causal: bool, act: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), act, nn.Linear(hidden, width))
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(seen.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norms[1](x))


class Clip(nn.Module):
    """The two towers of a `ModelConfig` with class token, causal text and projections: as many parameters as ours."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        i, t, e = config.image, config.text, config.embed_dim
        act = (
            QuickGELU()
            if config.activation == "quick_gelu"
            else nn.GELU("tanh" if config.activation == "gelu" else "none")
        )
        self.patch = nn.Conv2d(3, i.width, i.patch_size, i.patch_size, bias=False)
        self.class_token, self.places = (
            nn.Parameter(0.02 * torch.randn(*s)) for s in ((i.width,), (i.tokens, i.width))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in (i.width, i.width, t.width))
        self.image = nn.Sequential(*(Block(i.width, i.heads, i.mlp_width, False, act) for _ in range(i.depth)))
        self.token = nn.Embedding(t.vocab_size, t.width)
        self.text_places = nn.Parameter(0.01 * torch.randn(t.context_length, t.width))
        self.text = nn.Sequential(*(Block(t.width, t.heads, t.mlp_width, True, act) for _ in range(t.depth)))
        self.projections = nn.ParameterList(w**-0.5 * torch.randn(w, e) for w in (i.width, t.width))
        self.scale = nn.Parameter(torch.tensor(2.6593))

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], 1) + self.places
        x = self.norms[1](self.image(self.norms[0](x))[:, 0]) @ self.projections[0]
        y = self.text(self.token(tokens) + self.text_places)
        y = self.norms[2](y[torch.arange(len(y), device=y.device), tokens.argmax(-1)]) @ self.projections[1]
        return F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1), self.scale.exp()


def trainee(run: Any, arrays: dict[str, Any], compiled: bool, count: int) -> dict[str, Any]:
    """Times ``count`` steps of a run on the first GPU, or on the CPU without one.

    Returns seconds a step, seconds until the first was done, GiB at the peak, the device's name, the loss. Raises
    AssertionError when the model has not as many parameters as ours.
    """
    from clip_jax import flops

    where = "cuda" if torch.cuda.is_available() else "cpu"
    model = Clip(run.model).to(where)
    assert sum(p.numel() for p in model.parameters()) == flops.params(run.model).total, "the two models differ"
    call = torch.compile(model) if compiled else model
    decayed, others = ([p for p in model.parameters() if (p.ndim >= 2) == large] for large in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    images, tokens = (torch.from_numpy(arrays[name]).to(where) for name in ("images", "tokens"))
    tokens = tokens.long()

    def once() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(where, torch.bfloat16):
            x, y, scale = call((images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.27, tokens)
        logits, right = scale * x @ y.T, torch.arange(len(x), device=x.device)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    float(once())
    first = time.perf_counter() - began
    float(once() + once())
    began = time.perf_counter()
    for _ in range(count):
        loss = once()
    last = float(loss)  # waits for all
    seconds = (time.perf_counter() - began) / count
    peak = torch.cuda.max_memory_allocated() / 2**30 if where == "cuda" else None
    name = torch.cuda.get_device_name() if where == "cuda" else "cpu"
    if where == "cuda":
        del model, call, optimizer, groups, decayed, others
        torch.cuda.empty_cache()
    return {
        "seconds": seconds, "compile_s": round(first, 1), "planned_gib": peak and round(peak, 2), "device": name,
        "loss": round(last, 4), "torch": torch.__version__,
    }  # fmt: skip
