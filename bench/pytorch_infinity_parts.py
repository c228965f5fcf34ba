"""What pytorch_infinity.py --whole makes a picture of: T5 encoder, transformer, VAE decoder and PNG, with random weights.

Shapes, order and arithmetic are the released model's; the fewest passes that eager PyTorch's public functions allow. Every stage
reads and writes buffers that are made beforehand, draws no random numbers and never waits for the device: so each can be captured
as a CUDA graph as it stands.
"""
import contextlib
import ctypes
import io
import math
import struct
import zlib
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    from PIL import Image
except ImportError:
    Image = None

T5_XL = dict(width=2048, depth=24, heads=32, inner=2048, ffn=5120, vocabulary=32128)
T5_TINY = dict(width=256, depth=2, heads=4, inner=256, ffn=640, vocabulary=1000)
WIDTHS = {"2b": [128, 256, 512, 512, 512], "8b": [128, 256, 512, 512], "125m": [128, 256, 512, 512, 512]}  # from full resolution down
CODES = {"2b": 32, "8b": 14, "125m": 16}  # latent channels; the 8B's tokens are 2x2 patches of them
GROUPS, CFG, TAU, TOP_P = 32, 4.0, 0.5, 0.97


class Weights:
    """Makes random weights where and in the type they are used."""

    def __init__(self, dtype, device):
        self.like = dict(dtype=dtype, device=device)

    def __call__(self, *shape):
        deviation = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.02  # of a bias
        return torch.empty(shape, **self.like).normal_(0, deviation)

    def norm(self, width):
        return torch.ones(width, **self.like), torch.zeros(width, **self.like)

    def conv(self, inputs, outputs, kernel=3):
        return self(outputs, inputs, kernel, kernel).to(memory_format=torch.channels_last), self(outputs), kernel // 2

    def buffer(self, *shape, dtype=None):
        return torch.zeros(shape, dtype=dtype or self.like["dtype"], device=self.like["device"])


class TextEncoder:
    """T5 v1.1: root-mean-square norms, unscaled attention with a bias by distance, gated GELU."""

    def __init__(self, w, tokens, width, depth, heads, inner, ffn, vocabulary):
        self.heads, self.shape = heads, (width,)
        self.embedding, self.distance, self.last = w(vocabulary, width), w(32, heads), w.norm(width)[0]
        self.buckets = distance_buckets(tokens).to(w.like["device"])
        self.layers = [(w.norm(width)[0], w(3 * inner, width), w(width, inner), w.norm(width)[0], w(2 * ffn, width), w(width, ffn))
                       for _ in range(depth)]

    def __call__(self, ids):
        x, T = F.embedding(ids, self.embedding), len(ids)
        bias = F.embedding(self.buckets, self.distance).permute(2, 0, 1)[None].contiguous()  # [1, H, T, T]
        for norm1, qkv, out, norm2, gates, down in self.layers:
            y = F.linear(F.rms_norm(x, self.shape, norm1, 1e-6), qkv).view(1, T, 3, self.heads, -1)
            q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            x.addmm_(a.transpose(1, 2).reshape(T, -1), out.t())
            gate, value = F.linear(F.rms_norm(x, self.shape, norm2, 1e-6), gates).chunk(2, -1)
            x.addmm_(F.gelu(gate, approximate="tanh") * value, down.t())
        return F.rms_norm(x, self.shape, self.last, 1e-6)


def distance_buckets(tokens):
    """[T, T]: exact below 8, then logarithmic to 128; later keys in the upper 16 of the 32 buckets."""
    at = torch.arange(tokens)
    offset = at[None] - at[:, None]
    distance = offset.abs()
    far = 8 + (torch.log(distance.float().clamp(min=1) / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (offset > 0)


class Block:
    def __init__(self, w, C, H, capacity, ada, ck, cv):
        self.H, self.hd, self.windows = H, C // H, {}
        self.qkv, self.qkv_b, self.proj, self.proj_b = w(3 * C, C), w(3 * C), w(C, C), w(C)
        self.caq, self.caq_b, self.cap, self.cap_b = w(C, C), w(C), w(C, C), w(C)
        self.fc1, self.fc1_b, self.fc2, self.fc2_b = w(4 * C, C), w(4 * C), w(C, 4 * C), w(C)
        self.norm = w.norm(C)
        self.temperature = torch.full((H, 1), 5.0, device=ck.device)
        self.k, self.v = w.buffer(2, H, capacity, C // H), w.buffer(2, H, capacity, C // H)
        self.ada = {R: ada[:, -R:].unbind(0) for R in (1, 2)}  # of the rows that run: the null row is the last
        self.cross = {R: (ck[-R:], cv[-R:]) for R in (1, 2)}

    def window(self, R, start, end):
        """Where keys and values of a scale go, and all that it sees; views are made once, since each costs a microsecond."""
        if (R, start, end) not in self.windows:
            k, v = self.k[-R:], self.v[-R:]
            self.windows[R, start, end] = (k[:, :, start:end], v[:, :, start:end], k[:, :, :end], v[:, :, :end])
        return self.windows[R, start, end]

    def __call__(self, x, rotation, start):
        R, L, C = x.shape
        H, hd = self.H, self.hd
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.ada[R]  # scales hold the 1 +
        y = torch.addcmul(shift1, F.layer_norm(x, (C,), eps=1e-6), scale1)
        qkv = F.linear(y, self.qkv, self.qkv_b).view(R, L, 3, H, hd)
        # q and k at once, in f32 as under autocast: of length sqrt(hd) by the norm, of length 1 by the rotation
        unit = F.rms_norm(qkv[:, :, :2].float(), (hd,), eps=1e-12).view(R, L, 2, H, hd // 2, 2)
        turned = torch.view_as_real(torch.view_as_complex(unit) * rotation).view(R, L, 2, H, hd)
        q = torch.mul(turned[:, :, 0], self.temperature, out=torch.empty(R, L, H, hd, dtype=x.dtype, device=x.device))
        k_here, v_here, k, v = self.window(R, start, start + L)
        k_here.copy_(turned[:, :, 1].transpose(1, 2))
        v_here.copy_(qkv[:, :, 2].transpose(1, 2))
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=1.0)
        x = torch.addcmul(x, F.linear(a.transpose(1, 2).reshape(R, L, C), self.proj, self.proj_b), gamma1)
        q = F.linear(F.layer_norm(x, (C,), *self.norm, 1e-6), self.caq, self.caq_b).view(R, L, H, hd).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, *self.cross[R])
        x = x + F.linear(a.transpose(1, 2).reshape(R, L, C), self.cap, self.cap_b)
        y = torch.addcmul(shift2, F.layer_norm(x, (C,), eps=1e-6), scale2)
        y = F.gelu(F.linear(y, self.fc1, self.fc1_b), approximate="tanh")
        return torch.addcmul(x, F.linear(y, self.fc2, self.fc2_b), gamma2)


def rotations(side, hd):
    """[L, 1, 1, hd / 2] complex: rows first, then columns, normalised to the 64 of 1M; divided by sqrt(hd)."""
    at = torch.tensor([round(Fraction(i * 64, side)) for i in range(side)], dtype=torch.float32)  # half to even
    angle = at[:, None] * 10000 ** (-torch.arange(hd // 4) / (hd // 4))
    rows, columns = angle[:, None].expand(side, side, -1), angle[None].expand(side, side, -1)
    theta = torch.cat([rows, columns], -1).view(side * side, 1, 1, hd // 2)
    return torch.polar(torch.full_like(theta, hd ** -0.5), theta)


class Step:
    """A scale of a method: its place in the cache, and the random numbers it uses."""

    def __init__(self, w, index, side, rows, ranks, start, bits):
        self.index, self.side, self.rows, self.ranks, self.start = index, side, rows, ranks, start
        self.keep = 0  # whether a later scale restores from the chunks' outputs of this one
        self.uniform = w.buffer(1, side * side, bits, dtype=torch.float32)
        self.mixing = [w.buffer(r, side * side) for r in ranks or []]
        self.waiting = w.buffer(len(self.mixing), side * side, dtype=torch.float32)

    def draw(self, generator):
        # A bit is 1 where its number lies under its probability; so cut, a class of at most 1 - TOP_P is never drawn.
        self.uniform.uniform_(generator=generator).clamp_(1 - TOP_P, TOP_P - 1e-6)
        for mixing in self.mixing:
            mixing.normal_(0, mixing.shape[0] ** -0.5, generator=generator)
        if self.mixing:
            self.waiting.exponential_(generator=generator)


class Transformer:
    """Text projections, scale loop and running latent. plans: (side, rows, ranks) of all scales by method."""

    def __init__(self, w, size, name, depth, sides, plans, text, features):
        C, _, H, chunks, bits = size
        d, device = CODES[name], w.like["device"]
        self.C, self.d, self.bits, self.text, self.patch = C, d, bits, text, 2 if bits != d else 1
        self.full = sides[-1] * self.patch
        self.text_norm, self.null = w.norm(features)[0], w(512, features)[:text]
        self.query = w(1, 16, 1, C // 16).repeat(2, 1, 1, 1)
        self.pool = (w(2 * C, features), w(2 * C)), (w(C, C), w(C))
        self.mlp = (w(C, features), w(C)), (w(C, C), w(C))
        self.kv = w(depth * 2 * C, C), w(depth * 2 * C)  # of all blocks, as one product
        self.shared_ada, self.head_ada = (w(6 * C, C), w(6 * C)), (w(2 * C, C), w(2 * C))
        self.offsets = w(depth, 6, 1, 1, C)
        self.offsets[:, 2:4] += 1
        self.embed, self.levels = (w(C, bits), w(C)), w(15, C)
        self.biases = [self.embed[1] + level for level in self.levels]  # both are added to every token
        self.first = w(1, 1, C) + self.levels[0]
        self.head = w(bits, C), w(bits)  # of a bit's two classes, only the difference counts
        # what is known once a prompt
        self.start, self.ada, self.head_mod = w.buffer(2, 1, C), w.buffer(depth, 6, 2, 1, C), w.buffer(2, 2, 1, C)
        self.cross = w.buffer(2, text, depth, 2, H, C // H)
        cross = self.cross.permute(2, 3, 0, 4, 1, 5)  # [D, 2, rows, H, T, hd]
        steps = {method: [] for method in plans}
        capacity = 0
        for method, plan in plans.items():
            start = 0
            for index, (side, rows, ranks) in enumerate(plan):
                steps[method].append(Step(w, index, side, rows, ranks, start, bits))
                start += max(ranks) if ranks else side * side
                if ranks:
                    steps[method][index - 1].keep = 1
            capacity = max(capacity, start)
        self.steps = steps
        blocks = [Block(w, C, H, capacity, self.ada[i], *cross[i]) for i in range(depth)]
        self.chunks = [blocks[i:i + depth // chunks] for i in range(0, depth, depth // chunks)]
        self.rotation = {side: rotations(side, C // H).to(device) for side in sides}
        kept = max([s.side ** 2 for all in steps.values() for s in all if s.keep], default=0)
        self.kept = [w.buffer(1, kept, C) for _ in self.chunks]
        self.latent = w.buffer(1, d, self.full, self.full, dtype=torch.float32).to(memory_format=torch.channels_last)

    def begin(self, method, generator):
        for step in self.steps[method]:
            step.draw(generator)
        self.latent.zero_()

    def prompt(self, features):
        """Features [T, *] of a prompt -> start, adaLN and cross attention of both rows; the null row's features are learned."""
        x = F.rms_norm(torch.stack([features, self.null]), features.shape[1:], self.text_norm, 1e-6)
        k, v = F.linear(x, *self.pool[0]).view(2, self.text, 2, 16, -1).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = F.scaled_dot_product_attention(self.query, k, v).reshape(2, self.C)
        cond = F.linear(pooled, *self.pool[1])
        torch.add(cond[:, None], self.first, out=self.start)
        active = F.silu(cond)
        shared = F.linear(active, *self.shared_ada).view(2, 6, 1, self.C).transpose(0, 1)
        torch.add(self.offsets, shared, out=self.ada)
        self.head_mod.copy_(F.linear(active, *self.head_ada).view(2, 2, 1, self.C).transpose(0, 1))
        self.head_mod[0].add_(1)
        ctx = F.linear(F.gelu(F.linear(x, *self.mlp[0]), approximate="tanh"), *self.mlp[1])
        self.cross.copy_(F.linear(ctx, *self.kv).view(self.cross.shape))

    def scale(self, step):
        side, rows, R = step.side, step.rows, slice(-step.rows, None)
        x = self.tokens(step) if step.index else self.start
        for c, chunk in enumerate(self.chunks):
            y = torch.mm(step.mixing[c], x[0])[None] if step.ranks else x
            rotation = self.rotation[side][:y.shape[1]]
            for block in chunk:
                y = block(y, rotation, step.start)
            if step.ranks:
                # the largest of weight / Exp(1) are a draw without replacement, by weight
                weight = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square()
                rows_drawn = torch.topk(weight / step.waiting[c], step.ranks[c]).indices[0]
                y = self.restored(c, side).index_copy_(1, rows_drawn, y)
            elif step.keep:
                self.kept[c].copy_(y[-1:])
            x = y
        h = torch.addcmul(self.head_mod[1, R], F.layer_norm(x, (self.C,), eps=1e-6), self.head_mod[0, R])
        z = F.linear(h, *self.head).float()
        if rows == 2:
            z = torch.lerp(z[1:], z[:1], CFG)
        codes = (step.uniform < torch.sigmoid(z / TAU)) * (2 * self.d ** -0.5) - self.d ** -0.5
        codes = codes.view(1, side, side, self.bits).permute(0, 3, 1, 2)
        self.latent.add_(self.resized(F.pixel_shuffle(codes, 2) if self.patch == 2 else codes, self.full))

    def tokens(self, step):
        side = step.side
        u = self.resized(self.latent, side * self.patch)
        u = (F.pixel_unshuffle(u, 2) if self.patch == 2 else u).permute(0, 2, 3, 1).reshape(1, side * side, self.bits)
        x = F.linear(u.to(self.levels.dtype), self.embed[0], self.biases[step.index])
        return x.expand(step.rows, side * side, self.C)

    @staticmethod
    def resized(x, side):
        """Two taps an axis both up and down, as released; trilinear on a depth of 1 is bilinear."""
        return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)

    def restored(self, c, side):
        was = math.isqrt(self.kept[c].shape[1])
        x = self.kept[c].view(1, was, was, self.C).permute(0, 3, 1, 2)
        return F.interpolate(x, size=(side, side), mode="area").permute(0, 2, 3, 1).reshape(1, side * side, self.C)


class Decoder:
    """Latent -> bytes [H, W, 3]; maps lie channels last, and convolve in the weights' type."""

    def __init__(self, w, d, widths, side):
        self.by_channel, self.dtype = False, w.like["dtype"]
        top, width = widths[-1], widths[-1]
        block = lambda a, b: (w.norm(a), w.conv(a, b), w.norm(b), w.conv(b, b), w.conv(a, b, 1) if a != b else None)
        self.enter, self.layers = w.conv(d, top), [block(top, top), block(top, top)]
        for level in reversed(range(len(widths))):
            for _ in range(3):
                self.layers.append(block(width, widths[level]))
                width = widths[level]
            if level:
                self.layers.append(w.conv(width, width))
        self.norm, self.leave = w.norm(width), w.conv(width, 3)
        out = side * 2 ** (len(widths) - 1)
        self.pixels = w.buffer(out, out, 3, dtype=torch.uint8)

    def __call__(self, latent):
        conv = lambda x, layer: F.conv2d(x, layer[0], layer[1], padding=layer[2])
        x = conv(latent.to(self.dtype), self.enter)
        for layer in self.layers:
            if len(layer) == 3:
                x = conv(F.interpolate(x, scale_factor=2, mode="nearest"), layer)
                continue
            norm1, conv1, norm2, conv2, shortcut = layer
            h = conv(self.active(conv(self.active(x, *norm1), conv1), *norm2), conv2)
            x = h.add_(conv(x, shortcut) if shortcut else x)
        rgb = conv(self.active(x, *self.norm), self.leave)[0].float()
        self.pixels.copy_(rgb.add_(1).mul_(127.5).clamp_(0, 255).permute(1, 2, 0))  # truncated, as released

    def active(self, x, weight, bias):
        """SiLU of the group norm. On a GPU F.group_norm copies channels-last maps to planes, and the convolution copies them back;
        by channel there are sums over the pixels and one multiplication."""
        if not self.by_channel:
            return F.silu(F.group_norm(x, GROUPS, weight, bias, 1e-6), inplace=True)
        C = x.shape[1]
        pixels = x.permute(0, 2, 3, 1).reshape(-1, C)
        count = pixels.shape[0] * C // GROUPS
        mean = pixels.sum(0, dtype=torch.float32).view(GROUPS, -1).sum(1, keepdim=True) / count
        square = torch.linalg.vector_norm(pixels, dim=0, dtype=torch.float32).square().view(GROUPS, -1).sum(1, keepdim=True) / count
        gain = weight.view(GROUPS, -1) * torch.rsqrt((square - mean.square()).clamp_(min=0) + 1e-6)
        shift = (bias.view(GROUPS, -1) - gain * mean).view(1, C, 1, 1).to(x.dtype)
        return F.silu(torch.addcmul(shift, x, gain.view(1, C, 1, 1).to(x.dtype)), inplace=True)


def attention(choice):
    """Which scaled_dot_product_attention is tried first."""
    if choice == "auto":
        return contextlib.nullcontext()
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    order.insert(0 if choice == "cudnn" else 1, SDPBackend.CUDNN_ATTENTION)
    return sdpa_kernel(order, set_priority=True)


def png(pixels):
    """Bytes [H, W, 3] on the host -> a PNG at level 3: Pillow's, or rows filtered by the one above where there is no Pillow."""
    H, W, _ = pixels.shape
    raw = lambda t: ctypes.string_at(t.data_ptr(), t.numel())
    if Image:
        file = io.BytesIO()
        Image.frombytes("RGB", (W, H), raw(pixels)).save(file, "PNG", compress_level=3)
        return file.getvalue()
    rows = torch.full((H, 1 + 3 * W), 2, dtype=torch.uint8)
    lines = pixels.view(H, 3 * W)
    rows[0, 1:] = lines[0]
    torch.sub(lines[1:], lines[:-1], out=rows[1:, 1:])
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw(rows), 3)) + chunk(b"IEND", b"")
