"""The PyTorch twin of the speed comparison for STAR: its scale loop with random weights, as fast as eager PyTorch runs it.

    python bench/pytorch_star.py --size 256 --method vanilla --dtype f32 --threads 2 [--depth 30] [--device cuda]

Shapes, order and arithmetic are the released d30 model's: both guidance rows, scaled_dot_product_attention over a preallocated KV
cache, cross-attention keys and values computed once a prompt, the cross attention of the first row added to both; head, guidance,
top-k, top-p, codebook, bicubic upsampling, smoothing convolution and area pooling to the next scale's tokens. Method stagevar is
the released one: at 48 the null row alone, at 64 that row on the published ranks. eval mode, no autograd; nothing waits for the
device within a scale. Weights are random: the time does not depend on them. --depth runs fewer blocks and scales nothing.

The scales alone are timed (text encoder, decoder and PNG are not), after one whole picture to warm up. Sampling takes exactly 600
codes, where upstream keeps ties with the last of them; it draws by the inverse of their cumulative sum, one number a token.
"""
import argparse
import json
import math
import platform
import time

import torch
import torch.nn.functional as F

from pytorch_infinity_parts import Weights

SIDES = {"256": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "512": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
         "1024": (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)}
PHI = {10: (0, 0, 1, 1, 1, 2, 2, 3, 3, 3), 14: (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3)}  # a scale's convolution
D30 = dict(width=1920, depth=30, heads=30, vocabulary=4096, code=32, text=1024)
CFG, TOP_K, TOP_P = 4.5, 600, 0.8
RANKS = [30, 53, 134, 199, 329, 357, 336, 316, 296, 299, 318, 350, 371, 365, 339,
         311, 287, 266, 269, 229, 204, 169, 139, 116, 97, 81, 68, 56, 46, 38]  # of every block at 64, alpha 0.96
NULL_TOKENS = 2  # the null prompt is a beginning and an end
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def lengths(x):
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(1e-12)


class Block:
    def __init__(self, w, C, H, text, capacity):
        self.H, self.hd = H, C // H
        self.qkv, self.qkv_b, self.proj, self.proj_b = w(3 * C, C), w(3 * C), w(C, C), w(C)
        self.qkv_b[C:2 * C] = 0  # keys have no bias
        self.caq, self.caq_b, self.cap, self.cap_b = w(C, C), w(C), w(C, C), w(C)
        self.ckv, self.cv_b = w(2 * C, text), w(C)
        self.fc1, self.fc1_b, self.fc2, self.fc2_b = w(4 * C, C), w(4 * C), w(C, 4 * C), w(C)
        self.temperature = w.buffer(2, H, 1, dtype=torch.float32).fill_(1)  # of queries; keys stay of length 1
        self.temperature[0] = 4
        self.cross_temperature = w.buffer(H, 1, dtype=torch.float32).fill_(4)
        self.cache = w.buffer(2, 2, H, capacity, C // H)  # keys and values, of both rows
        self.cross = {}  # keys and values of the text, by the rows that run: the prompt's for 2, the null prompt's for 1

    def read(self, rows, features):
        k, v = F.linear(features, self.ckv).view(1, -1, 2, self.H, self.hd).permute(2, 0, 3, 1, 4).unbind(0)  # [1, H, T, hd]
        v = v + self.cv_b.view(self.H, 1, self.hd)
        self.cross[rows] = (k / lengths(k)).to(k.dtype).contiguous(), v.contiguous()

    def __call__(self, x, rotation, start):
        """x [R, L, C], written into and returned; rotation [L, 1, 1, hd / 2]; start: tokens in the cache."""
        R, L, C = x.shape
        H, hd, flat = self.H, self.hd, x.view(-1, C)
        qkv = F.linear(norm(x), self.qkv, self.qkv_b).view(R, L, 3, H, hd)
        # q and k at once, in f32 as under autocast; turning keeps lengths, so that one multiplication brings both to theirs
        qk = qkv[:, :, :2].float()
        gain = self.temperature / lengths(qk)  # [R, L, 2, H, 1]
        turned = torch.view_as_real(torch.view_as_complex(qk.unflatten(-1, (hd // 2, 2))) * rotation).view(R, L, 2, H, hd)
        k, v = self.cache[:, -R:, :, :start + L].unbind(0)  # the null row is the last
        torch.mul(turned[:, :, 1], gain[:, :, 1], out=k[:, :, start:].transpose(1, 2))
        v[:, :, start:].copy_(qkv[:, :, 2].transpose(1, 2))
        q = torch.mul(turned[:, :, 0], gain[:, :, 0], out=torch.empty(R, L, H, hd, dtype=x.dtype, device=x.device))
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=1.0)
        flat.addmm_(a.transpose(1, 2).reshape(-1, C), self.proj.t()).add_(self.proj_b)
        q = F.linear(norm(x[:1]), self.caq, self.caq_b).view(1, L, H, hd)
        q.mul_(self.cross_temperature / lengths(q))
        a = F.scaled_dot_product_attention(q.transpose(1, 2), *self.cross[R], scale=1.0)
        x.add_(F.linear(a.transpose(1, 2).reshape(L, C), self.cap, self.cap_b))  # the first row's, to all
        hidden = torch.ops.aten.gelu_(F.linear(norm(flat), self.fc1, self.fc1_b), approximate="tanh")
        flat.addmm_(hidden, self.fc2.t()).add_(self.fc2_b)
        return x


def rotations(side, hd):
    """[L, 1, 1, hd / 2] complex: columns first, then rows, corners at 0 and 64."""
    at = torch.arange(side, dtype=torch.float64) / max(side - 1, 1) * 64
    angle = at[:, None] * 10000 ** (-torch.arange(hd // 4, dtype=torch.float64) * 4 / hd)
    theta = torch.cat([angle[None].expand(side, side, -1), angle[:, None].expand(side, side, -1)], -1)
    return torch.polar(torch.ones_like(theta), theta).to(torch.complex64).view(side * side, 1, 1, hd // 2)


def plan(method, sides, depth):
    """(side, rows, ranks a block or None) of every scale."""
    steps = [(side, 2, None) for side in sides]
    if method == "stagevar":
        steps[-2:] = [(sides[-2], 1, None), (sides[-1], 1, RANKS[:depth])]
    return steps


class Star:
    def __init__(self, w, steps, width, depth, heads, vocabulary, code, text):
        C, device, f32 = width, w.like["device"], Weights(torch.float32, w.like["device"])
        self.steps, self.last = steps, steps[-1][0]
        tokens = [max(ranks) if ranks else side * side for side, _, ranks in steps]
        self.starts = [sum(tokens[:k]) for k in range(len(tokens))]
        self.blocks = [Block(w, C, heads, text, sum(tokens)) for _ in range(depth)]
        self.rotation = {side: rotations(side, C // heads).to(device) for side, _, _ in steps}
        self.first = w.buffer(2, 1, C)
        levels = w(len(steps), C)
        self.project = w(C, text), w(C) + levels[0]  # of the first scale: the start's position is in the bias, too
        self.embed, self.biases = w(C, code), levels + w(C)
        self.head = w(vocabulary, C), w(vocabulary)
        self.codebook = f32(vocabulary, code)
        self.phi = [halves(f32(code, code, 3, 3), f32(code)) for _ in range(4)]
        self.latent = f32.buffer(1, code, self.last, self.last)
        kept = max([a[0] ** 2 for a, b in zip(steps, steps[1:]) if b[2]], default=0)
        self.kept = [w.buffer(1, kept, C) for _ in self.blocks] if kept else []  # the blocks' outputs a later scale restores from

    def prompt(self, texts, pooled):
        """Features [T, Dt] of the prompt and of the null prompt, and pooled [2, Dt]."""
        self.first[:, 0] = F.linear(pooled, *self.project)
        for block in self.blocks:
            for rows, features in zip((2, 1), texts):
                block.read(rows, features)

    def scale(self, k):
        side, rows, ranks = self.steps[k]
        start, rotation = self.starts[k], self.rotation[side]
        keep = k + 1 < len(self.steps) and self.steps[k + 1][2]
        x = self.tokens(k, side, rows) if k else self.first[-rows:].clone()
        for i, block in enumerate(self.blocks):
            if ranks:
                at = self.drawn(x, ranks[i])
                x = self.restored(i, side).index_copy_(1, at, block(self.mixed(x, ranks[i]), rotation[at], start))
            else:
                x = block(x, rotation, start)
            if keep:
                self.kept[i].copy_(x[-1:])
        z = F.linear(norm(x), *self.head).float()  # [R, L, V]
        z = torch.lerp(z[1], z[0], 1 + CFG * k / (len(self.steps) - 1)) if rows == 2 else z[0]
        self.add(k, side, self.sample(z))

    def tokens(self, k, side, rows):
        u = self.latent if side == self.last else F.adaptive_avg_pool2d(self.latent, side)
        u = u.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(self.embed.dtype)
        x = F.linear(u, self.embed, self.biases[k])
        return x if rows == 1 else x.repeat(rows, 1, 1)

    @staticmethod
    def sample(z):
        """Logits [L, V] -> codes [L]: the most likely up to a share, of the TOP_K most likely, drawn by their probabilities."""
        best, codes = torch.topk(z, TOP_K)
        share = torch.softmax(best, -1).cumsum(-1)
        last = torch.searchsorted(share, torch.full_like(share[:, :1], TOP_P)).clamp_(max=TOP_K - 1)
        drawn = torch.rand_like(share[:, :1]) * share.gather(-1, last)
        return codes.gather(-1, torch.searchsorted(share, drawn, right=True).minimum(last))[:, 0]

    def add(self, k, side, codes):
        u = F.embedding(codes, self.codebook).view(1, side, side, -1).permute(0, 3, 1, 2)
        if side != self.last:
            u = F.interpolate(u, size=(self.last, self.last), mode="bicubic", align_corners=False)
        self.latent.add_(F.conv2d(u, *self.phi[PHI[len(self.steps)][k]], padding=1))

    @staticmethod
    def drawn(x, rank):
        """Places of the rows to restore: the largest of weight / Exp(1) are a draw without replacement, by weight."""
        weight = torch.linalg.vector_norm(x[0], dim=-1, dtype=torch.float32).square()
        return torch.topk(weight / torch.empty_like(weight).exponential_(), rank).indices

    @staticmethod
    def mixed(x, rank):
        """[1, L, C] -> [1, r, C], r random mixtures of the rows."""
        mixing = torch.empty(rank, x.shape[1], dtype=x.dtype, device=x.device).normal_(0, rank ** -0.5)
        return torch.mm(mixing, x[0])[None]

    def restored(self, i, side):
        """A block's output at the scale before, [1, L, C] of this one."""
        was = math.isqrt(self.kept[i].shape[1])
        x = self.kept[i].view(1, was, was, -1).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(x, side).permute(0, 2, 3, 1).reshape(1, side * side, -1)


def halves(weight, bias):
    """Half of what goes in and half of its convolution, as one convolution."""
    weight[:, :, 1, 1] += torch.eye(len(weight), device=weight.device)
    return weight / 2, bias / 2


def picture(model, wait):
    """(side, seconds) of every scale."""
    spent = []
    model.latent.zero_()
    for k, (side, _, _) in enumerate(model.steps):
        wait()
        begin = time.perf_counter()
        model.scale(k)
        wait()
        spent.append((side, time.perf_counter() - begin))
    return spent


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--size", choices=SIDES, default="256", help="side of the picture; each is a model of its own")
    ap.add_argument("--method", choices=["vanilla", "stagevar"], default="vanilla")
    ap.add_argument("--dtype", choices=DTYPES, default="f32")
    ap.add_argument("--threads", type=int, default=torch.get_num_threads())
    ap.add_argument("--depth", type=int, default=D30["depth"])
    ap.add_argument("--text", type=int, default=16, help="prompt tokens, beginning and end included")
    ap.add_argument("--runs", type=int, default=1)
    ap.add_argument("--device", default="cpu")
    args = ap.parse_args()
    if args.method == "stagevar" and args.size != "1024":
        ap.error("ranks of stagevar are published for size 1024 alone")
    torch.set_num_threads(args.threads)
    wait = torch.cuda.synchronize if torch.device(args.device).type == "cuda" else lambda: None
    with torch.inference_mode():
        w = Weights(DTYPES[args.dtype], args.device)
        model = Star(w, plan(args.method, SIDES[args.size], args.depth), **{**D30, "depth": args.depth})
        texts = [w(T, D30["text"]) for T in (args.text, NULL_TOKENS)]
        model.prompt(texts, torch.stack([features[-1] for features in texts]))
        picture(model, wait)
        runs = [picture(model, wait) for _ in range(args.runs)]
    totals = [sum(t for _, t in spent) for spent in runs]
    best = runs[totals.index(min(totals))]
    print(f"PyTorch {torch.__version__}, {platform.machine()}, {args.threads} threads, STAR {args.size} {args.dtype}, {args.depth} blocks, "
          f"{args.method}: {min(totals):.2f} s (best of {args.runs})")
    for side, seconds in best:
        print(f"  {side:3d}x{side:<3d} {seconds * 1000:10.1f} ms")
    print(json.dumps({"twin": "pytorch", "family": "star", "size": args.size, "dtype": args.dtype, "threads": args.threads,
                      "depth": args.depth, "method": args.method, "seconds": totals,
                      "scales_ms": [round(t * 1000, 2) for _, t in best]}))


if __name__ == "__main__":
    main()
