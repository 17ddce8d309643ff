"""One small model per shape of residual connection found in real models, look-alikes that are none included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.passes.layers import (
    BATCH,
    TOKENS,
    WIDTH,
    Attention,
    Mlp,
    Net,
    Net2,
    PreNorm,
    conv,
    images,
    mlps,
    tokens,
    vector,
)


@dataclass(frozen=True)
class Shape:
    """A model, and what has to come of each of its adds.

    Attributes:
        build: makes the model, fp32.
        keys: keys of its sites, in graph order.
        reasons: names of the reasons of its rejected sums, in graph order.
        segments: number of segments.
        inputs: makes its inputs, fp64.
    """

    build: Callable[[], nn.Module]
    keys: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    segments: int = 1
    inputs: Callable[[], tuple[Tensor, ...]] = lambda: (tokens(),)

    def make(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The model, fp64 and always the same, and its inputs."""
        torch.manual_seed(0)
        return self.build().double(), self.inputs()


def pictures() -> tuple[Tensor, ...]:
    return (images(),)


def two_inputs() -> tuple[Tensor, ...]:
    return tokens(), tokens().flip(1)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm spelled out, as in Llama: the statistics in fp32 or more."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


# --- sites ------------------------------------------------------------------------------------------------------


def pre_norm() -> nn.Module:
    return nn.Sequential(PreNorm(), PreNorm())


def convnext() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        for i in range(2):
            branch = m.get_submodule(f"b{i}")
            x = x + branch.mlp(branch.norm(branch.dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x

    def branch() -> nn.Module:
        depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        return nn.ModuleDict({"dw": depthwise, "norm": nn.LayerNorm(WIDTH), "mlp": Mlp()})

    return Net(body, b0=branch(), b1=branch())


def post_norm() -> nn.Module:
    """BERT: the norm between two sites is lifted."""
    body = lambda m, x: m.n2(m.f2(u := m.n1(m.f1(x) + x)) + u)
    return Net(body, f1=Attention(), f2=Mlp(), n1=nn.LayerNorm(WIDTH), n2=nn.LayerNorm(WIDTH))


def post_rms_norm() -> nn.Module:
    return Net(lambda m, x: rms((u := rms(x + m.f0(x), m.g)) + m.f1(u), m.g), g=vector(), **mlps(2))


def norm_in_branch() -> nn.Module:
    """Swin v2."""
    return Net(lambda m, x: (u := x + m.n(m.f0(x))) + m.n(m.f1(u)), n=nn.LayerNorm(WIDTH), **mlps(2))


def resnet() -> nn.Module:
    """A stage: the first block changes the number of channels by a projection, two follow."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.f0(x) + m.short(x))
        x = F.relu(m.f1(x) + x)
        return F.relu(m.f2(x) + x)

    return Net(body, f0=conv(WIDTH, 16, 2), f1=conv(16), f2=conv(16), short=conv(WIDTH, 16, 2)).eval()


def parallel() -> nn.Module:
    """GPT-J: both branches read one norm."""

    def body(m: Net, x: Tensor) -> Tensor:
        for i in range(2):
            layer = m.get_submodule(f"l{i}")
            u = layer.n(x)
            x = x + layer.attn(u) + layer.mlp(u)
        return x

    layer = lambda: nn.ModuleDict({"n": nn.LayerNorm(WIDTH), "attn": Attention(), "mlp": Mlp()})
    return Net(body, l0=layer(), l1=layer())


def scaled_skip() -> nn.Module:
    """DeepNorm, and a learned vector on the skip."""
    return Net(lambda m, x: (u := x * 0.8 + m.f0(x)) * m.g + m.f1(u), g=vector(), **mlps(2))


def scaled_branch() -> nn.Module:
    """Granite, and LayerScale."""
    return Net(lambda m, x: (u := x + 0.2 * m.f0(x)) + m.g * m.f1(u), g=vector(), **mlps(2))


def drop_path() -> nn.Module:
    """Stochastic depth of timm, in training."""

    def drop(y: Tensor) -> Tensor:
        return y * torch.ones((y.shape[0], 1, 1), dtype=y.dtype).bernoulli_(1.0)

    return Net(lambda m, x: (u := x + drop(m.f0(x))) + drop(m.f1(u)), **mlps(2))


def in_place() -> nn.Module:
    """`add_`, `+=`, `alpha=` and `sub`."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.f0(x)
        y += x
        z = m.f1(y).add_(y)
        w = torch.add(z, m.f2(z), alpha=0.5)
        return torch.sub(w, m.f3(w))

    return Net(body, stem=nn.Linear(WIDTH, WIDTH), **mlps(4))


def wide_residual() -> nn.Module:
    """A residual stream in a wider dtype than the branches; fp32 under an fp64 stream here, as fp64 is the widest."""

    def body(m: Net, x: Tensor) -> Tensor:
        u = x.to(torch.float64) + m.f0(x).to(torch.float64)
        return u + m.f1(u.to(x.dtype)).to(torch.float64)

    return Net(body, **mlps(2))


class AddInside(nn.Module):
    """Bloom: the residual is an argument of the branch's module."""

    def __init__(self) -> None:
        super().__init__()
        self.f = Mlp()

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.f(x)


class Pair(nn.Module):
    """DBRX: norm and attention in one module that returns the residual beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.f = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.f(self.norm(x))


def add_elsewhere() -> nn.Module:
    return Net(lambda m, x: m.b(m.n(u := m.a(m.n(x), x)), u), a=AddInside(), b=AddInside(), n=nn.LayerNorm(WIDTH))


def through_tuple() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        skip, y = m.a(x)
        skip, y = m.b(skip + y)
        return skip + y

    return Net(body, a=Pair(), b=Pair())


def through_2d_view() -> nn.Module:
    """OPT: the feed-forward part works on rows."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = x + m.f0(x)
        rows = x.reshape(-1, WIDTH)
        rows = rows + m.f1(rows)
        x = rows.view(BATCH, TOKENS, WIDTH)
        return x + m.f2(x)

    return Net(body, **mlps(3))


def added_in_2d() -> nn.Module:
    """DBRX: the branch reads three axes, the sum has two."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = x + m.f0(x)
        rows = x.view(-1, WIDTH) + m.f1(x).view(-1, WIDTH)
        return rows.view(BATCH, TOKENS, WIDTH)

    return Net(body, **mlps(2))


def sliced_branch() -> nn.Module:
    """The branch computes one token more than the skip has."""

    def body(m: Net, x: Tensor) -> Tensor:
        return x + m.f0(torch.cat((x[:, :1], x), 1))[:, :-1]

    return Net(body, **mlps(1))


def sliced_skip() -> nn.Module:
    """TimeSformer: the class token is cut off the skip."""
    return Net(lambda m, x: x[:, 1:] + m.f0(x)[:, 1:], **mlps(1))


def hyper_connected() -> nn.Module:
    """A model with its own hyper-connections, as DeepSeek-V4."""

    def body(m: Net, x: Tensor) -> Tensor:
        streams = x.unsqueeze(2).expand(-1, -1, 2, -1)
        for f in (m.f0, m.f1):
            u = (streams * m.pre).sum(2)
            mixing = m.mixing(streams).softmax(-1)
            streams = mixing @ streams + f(u).unsqueeze(2) * m.post
        return streams.mean(2)

    gates = {name: nn.Parameter(torch.rand(2, 1)) for name in ("pre", "post")}
    return Net(body, mixing=nn.Linear(WIDTH, 2), **gates, **mlps(2))


def reversible() -> nn.Module:
    """Reformer: two streams, each of which is updated from the other."""

    def body(m: Net, x: Tensor) -> Tensor:
        a, b = x, x
        for f, g in ((m.f0, m.f1), (m.f2, m.f3)):
            a = a + f(b)
            b = b + g(a)
        return torch.cat((a, b), -1)

    return Net(body, **mlps(4))


def long_skip() -> nn.Module:
    """EDSR: a skip round the whole chain."""
    return Net(lambda m, x: x + m.end((u := x + m.f0(x)) + m.f1(u)), end=nn.Linear(WIDTH, WIDTH), **mlps(2))


def token_shift() -> nn.Module:
    """RWKV: a lerp of each token with the one before, inside the branch."""

    def body(m: Net, x: Tensor) -> Tensor:
        for f in (m.f0, m.f1):
            shifted = F.pad(x, (0, 0, 1, -1))
            x = x + f(x + (shifted - x) * m.mix)
        return x

    return Net(body, mix=vector(), **mlps(2))


def cross_attention() -> nn.Module:
    """A T5 decoder layer."""

    def body(m: Net, x: Tensor, memory: Tensor) -> Tensor:
        x = x + m.self_attn(m.n(x))
        x = x + m.cross_attn(m.n(x), memory)
        return x + m.f0(m.n(x))

    return Net2(body, self_attn=Attention(), cross_attn=Attention(), n=nn.LayerNorm(WIDTH), **mlps(1))


class Mixture(nn.Module):
    """A dense mixture of experts with a shared one; its sums are no residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.shared = nn.Linear(WIDTH, 2), Mlp()
        self.experts = nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.softmax(self.gate(x), -1)
        routed = gates[..., :1] * self.experts[0](x) + gates[..., 1:] * self.experts[1](x)
        return routed + self.shared(x)


def mixture() -> nn.Module:
    return Net(lambda m, x: (u := x + m.moe(x)) + m.f0(u), moe=Mixture(), **mlps(1))


def checkpointed() -> nn.Module:
    """Hugging Face in training: the blocks are bodies of activation checkpoints."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            return x + checkpoint(self.f, x, use_reentrant=False)

    return nn.Sequential(Layer(), Layer())


class Checkpointed(nn.Module):
    """The whole layer, its residual connection included, is recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PreNorm(), PreNorm()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def shared_layers() -> nn.Module:
    """ALBERT: one layer, used three times."""

    def body(m: Net, x: Tensor) -> Tensor:
        for _ in range(3):
            x = m.layer(x)
        return x

    return Net(body, layer=PreNorm())


# --- look-alikes ------------------------------------------------------------------------------------------------


def rotary() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        q = m.q(x)
        first, second = q.chunk(2, -1)
        return m.out(q * m.cos + torch.cat((-second, first), -1) * m.sin)

    tables = {name: nn.Buffer(torch.randn(TOKENS, WIDTH)) for name in ("cos", "sin")}
    return Net(body, q=nn.Linear(WIDTH, WIDTH), out=nn.Linear(WIDTH, WIDTH), **tables)


def tanh_gelu() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(0.5 * h * (1 + torch.tanh(0.797885 * (h + 0.044715 * torch.pow(h, 3)))))

    return Net(body, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))


def attention_bias() -> nn.Module:
    """A learned bias and a mask on the scores, of their full shape."""

    def body(m: Net, x: Tensor, y: Tensor) -> Tensor:
        mask = (y @ y.transpose(1, 2)).unsqueeze(1).expand(-1, 2, -1, -1)
        return m.attn(x, None, m.bias + mask)

    return Net2(body, attn=Attention(), bias=nn.Parameter(torch.randn(BATCH, 2, TOKENS, TOKENS)))


def position_embedding() -> nn.Module:
    """One broadcast, one of full shape, before a residual connection."""

    def body(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x) + m.rows
        x = x + m.full
        return x + m.f0(x)

    tables = {"rows": nn.Parameter(torch.randn(TOKENS, WIDTH)), "full": nn.Parameter(torch.randn(BATCH, TOKENS, WIDTH))}
    return Net(body, stem=nn.Linear(WIDTH, WIDTH), **tables, **mlps(1))


def mean_eps() -> nn.Module:
    return Net(lambda m, x: m.f0(x / ((x * x).mean(-1, keepdim=True) + 1e-5).sqrt()), **mlps(1))


def state_update() -> nn.Module:
    """A linear recurrence unrolled: `s = a * s + k(x_t)`, no token depends on the state."""

    def body(m: Net, x: Tensor) -> Tensor:
        keys, decay = m.k(x), torch.sigmoid(m.a(x))
        state = keys[:, 0]
        for t in range(1, 3):
            state = decay[:, t] * state + keys[:, t]
        return m.out(state)

    return Net(body, **{name: nn.Linear(WIDTH, WIDTH) for name in ("k", "a", "out")})


def delta_rule() -> nn.Module:
    """DeltaNet: the state is corrected by what it returns, through no weight."""

    def body(m: Net, x: Tensor) -> Tensor:
        keys, values = m.k(x), m.v(x)
        state = keys[:, 0].unsqueeze(2) * values[:, 0].unsqueeze(1)
        for t in range(1, 3):
            key = keys[:, t].unsqueeze(1)
            state = state + key.transpose(1, 2) @ (values[:, t].unsqueeze(1) - key @ state)
        return m.out(state)

    return Net(body, **{name: nn.Linear(WIDTH, WIDTH) for name in ("k", "v", "out")})


def lora() -> nn.Module:
    body = lambda m, x: m.base(x) + 0.5 * m.b(m.a(x))
    return Net(body, base=nn.Linear(WIDTH, WIDTH), a=nn.Linear(WIDTH, 2), b=nn.Linear(2, WIDTH))


def feature_pyramid() -> nn.Module:
    """FPN: a lateral convolution plus the coarser level, upsampled."""

    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = m.c1(x)
        coarse = m.c2(fine)
        top = m.lateral2(coarse)
        return m.lateral1(fine) + F.interpolate(top, scale_factor=2.0), top

    lateral = {f"lateral{i}": nn.Conv2d(WIDTH, WIDTH, 1) for i in (1, 2)}
    return Net(body, c1=conv(), c2=conv(WIDTH, WIDTH, 2), **lateral).eval()


def exchange() -> nn.Module:
    """HRNet: each resolution gets the sum of both."""

    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = m.fine(x), m.coarse(x)
        up = F.interpolate(m.up(b), scale_factor=2.0)
        return F.relu(a + up), F.relu(m.down(a) + b)

    layers = {"fine": conv(), "coarse": conv(WIDTH, WIDTH, 2), "down": conv(WIDTH, WIDTH, 2)}
    return Net(body, up=nn.Conv2d(WIDTH, WIDTH, 1), **layers).eval()


def loss_sum() -> nn.Module:
    """Two losses per token, and their scalar sum."""

    def body(m: Net, x: Tensor, y: Tensor) -> Tensor:
        pred = m.head(x)
        each = (pred - y).square() + 0.1 * pred.abs()
        return each.mean() + pred.square().mean()

    return Net2(body, head=nn.Linear(WIDTH, WIDTH))


def unet() -> nn.Module:
    body = lambda m, x: m.up(torch.cat((x, F.interpolate(m.down(x), scale_factor=2.0)), 1))
    return Net(body, down=conv(WIDTH, WIDTH, 2), up=conv(2 * WIDTH, WIDTH)).eval()


def squeeze_excite() -> nn.Module:
    """The gate holds `x + 3`, its product with x no add at all."""

    def body(m: Net, x: Tensor) -> Tensor:
        gate = m.fc(x.mean((2, 3), keepdim=True))
        return x * F.relu6(gate + 3.0) / 6.0

    return Net(body, fc=nn.Conv2d(WIDTH, WIDTH, 1))


def shared_expert() -> nn.Module:
    return Net(lambda m, x: m.moe(m.n(x)), moe=Mixture(), n=nn.LayerNorm(WIDTH))


def snake() -> nn.Module:
    body = lambda m, x: m.b((h := m.a(x)) + torch.sin(m.alpha * h).pow(2) / m.alpha)
    return Net(body, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH), alpha=vector())


def repvgg() -> nn.Module:
    """Three parallel branches, one of them batch norm alone."""
    body = lambda m, x: F.relu(m.three(x) + m.one(x) + m.bn(x))
    return Net(body, three=conv(), one=nn.Conv2d(WIDTH, WIDTH, 1), bn=nn.BatchNorm2d(WIDTH)).eval()


def positions_every_layer() -> nn.Module:
    """DETR: queries start from an embedding, which is added again in every layer; the real chain lies inside."""

    def body(m: Net, x: Tensor) -> Tensor:
        for attn, f in ((m.attn0, m.f0), (m.attn1, m.f1)):
            position = m.position.expand(BATCH, -1, -1)
            x = m.n(x + attn(x + position))
            x = m.n(x + f(x))
        return x

    position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
    return Net(body, position=position, attn0=Attention(), attn1=Attention(), n=nn.LayerNorm(WIDTH), **mlps(2))


def queries_from_positions() -> nn.Module:
    """DETR's decoder: the stream itself starts at the embedding, so the embedding is an ancestor of x."""

    def body(m: Net, x: Tensor) -> Tensor:
        position = m.position.expand(BATCH, -1, -1) * 1.0
        h = m.start(position)
        for attn, f in ((m.attn0, m.f0), (m.attn1, m.f1)):
            h = m.n(h + attn(h + position, x))
            h = m.n(h + f(h))
        return h

    position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
    layers = {"attn0": Attention(), "attn1": Attention(), "n": nn.LayerNorm(WIDTH), "start": nn.Linear(WIDTH, WIDTH)}
    return Net(body, position=position, **layers, **mlps(2))


SHAPES: dict[str, Shape] = {
    "pre-norm": Shape(pre_norm, ("0.attn", "0.mlp", "1.attn", "1.mlp")),
    "convnext": Shape(convnext, ("b0", "b1"), inputs=pictures),
    "post-norm": Shape(post_norm, ("f1", "f2")),
    "post-norm, RMSNorm spelled out": Shape(post_rms_norm, ("f0", "f1"), ("SCALAR",) * 2),
    "norm in the branch": Shape(norm_in_branch, ("f0", "f1")),
    "resnet stage": Shape(resnet, ("f1.0", "f2.0"), ("PROJECTED_SHORTCUT",), inputs=pictures),
    "parallel": Shape(parallel, ("l0", "l1")),
    "scaled skip": Shape(scaled_skip, ("f0", "f1")),
    "scaled branch": Shape(scaled_branch, ("f0", "f1")),
    "drop path": Shape(drop_path, ("f0", "f1")),
    "in place": Shape(in_place, ("f0", "f1", "f2", "f3")),
    "wide residual": Shape(wide_residual, ("f0", "f1")),
    "add in another module": Shape(add_elsewhere, ("a.f", "b.f")),
    "through a tuple": Shape(through_tuple, ("a.f", "b.f")),
    "through a 2-D view": Shape(through_2d_view, ("f0", "f1", "f2")),
    "added in 2-D": Shape(added_in_2d, ("f0", "f1")),
    "sliced branch": Shape(sliced_branch, ("f0",)),
    "sliced skip": Shape(sliced_skip, ("f0",)),
    "multi-stream": Shape(hyper_connected, (), ("MULTI_STREAM",) * 2, 0),
    "long skip": Shape(long_skip, ("f0", "f1"), ("NESTED",)),
    "token shift": Shape(token_shift, ("f0", "f1"), ("NO_WEIGHT",) * 4),
    "cross-attention": Shape(cross_attention, ("self_attn", "cross_attn", "f0"), inputs=two_inputs),
    "mixture of experts": Shape(mixture, ("moe", "f0")),
    "checkpointed": Shape(checkpointed, ("0.f", "1.f")),
    "checkpointed whole": Shape(Checkpointed, ("layers.0.attn", "layers.0.mlp", "layers.1.attn", "layers.1.mlp")),
    "reversible": Shape(reversible, (), ("MULTI_STREAM",) * 4, 0),
    "shared layers": Shape(
        shared_layers, tuple(f"layer.{part}{use}" for use in ("", "#2", "#3") for part in ("attn", "mlp"))
    ),
    "rotary": Shape(rotary, (), ("NO_WEIGHT",), 0),
    "tanh GELU": Shape(tanh_gelu, (), ("NO_WEIGHT", "SCALAR"), 0),
    "attention bias": Shape(attention_bias, (), ("NOT_ANCESTOR",), 0, two_inputs),
    "position embedding": Shape(position_embedding, ("f0",), ("BROADCAST", "NOT_ANCESTOR")),
    "mean plus eps": Shape(mean_eps, (), ("SCALAR",), 0),
    "state update": Shape(state_update, (), ("NO_WEIGHT",) * 2, 0),
    "delta rule": Shape(delta_rule, (), ("NO_WEIGHT",) * 4, 0),
    "LoRA": Shape(lora, (), ("PROJECTED_SHORTCUT",), 0),
    "feature pyramid": Shape(feature_pyramid, (), ("PROJECTED_SHORTCUT",), 0, pictures),
    "exchange of resolutions": Shape(exchange, (), ("PROJECTED_SHORTCUT",) * 2, 0, pictures),
    "loss sum": Shape(loss_sum, (), ("NOT_ANCESTOR", "PROJECTED_SHORTCUT"), 0, two_inputs),
    "U-Net": Shape(unet, (), (), 0, pictures),
    "squeeze-excite": Shape(squeeze_excite, (), ("SCALAR",), 0, pictures),
    "shared expert": Shape(shared_expert, (), ("PROJECTED_SHORTCUT",), 0),
    "snake": Shape(snake, (), ("NO_WEIGHT",), 0),
    "RepVGG": Shape(repvgg, (), ("RESHAPED_SKIP",), 0, pictures),
    "positions in every layer": Shape(positions_every_layer, ("attn0", "f0", "attn1", "f1"), ("NOT_ANCESTOR",) * 2),
    "queries from positions": Shape(queries_from_positions, ("attn0", "f0", "attn1", "f1"), ("INPUT_INDEPENDENT",) * 2),
}
