"""The PyTorch twin of a whole picture on a GPU: text encoder, transformer, decoder, PNG, with random weights.

    python bench/pytorch_whole.py [--method vanilla,stagevar] [--pixels 1M] [--dtype bf16] [--runs 10] [--cuda-graphs]

The transformer is that of pytorch_infinity.py, run eagerly; around it T5-XL's encoder, word embedding, head, guidance, bits,
codes and the running latent, the VAE's decoder (channels last) and a PNG of it. Nothing waits for the device but the picture's
bytes, which is eager PyTorch at its best; --cuda-graphs captures each scale's blocks and the decoder, one graph each, and
replays them. The first two pictures warm up. Prints medians, and all runs as JSON.
"""
import argparse
import io
import json
import statistics
import time
import zlib

import torch
import torch.nn.functional as F

from pytorch_infinity import COUNT, SIDES, SIZES, DTYPES, Block, plan

T5 = dict(width=2048, inner=2048, heads=32, ffn=5120, depth=24)
WIDTHS = [128, 256, 512, 512, 512]  # of the decoder, from full resolution down


class Encoder:
    """T5 v1.1: root mean square norms, unscaled attention with a bias by distance, gated GELU."""

    def __init__(self, dtype, device, tokens):
        w = lambda *shape: torch.randn(*shape, dtype=dtype, device=device) / shape[-1] ** 0.5
        C, I, ffn = T5["width"], T5["inner"], T5["ffn"]
        self.layers = [(w(3 * I, C), w(C, I), w(2 * ffn, C), w(C, ffn)) for _ in range(T5["depth"])]
        self.embedding = w(32128, C)
        self.norm = torch.ones(C, dtype=dtype, device=device)
        self.bias = w(1, T5["heads"], tokens, tokens)

    def __call__(self, ids):
        x = F.embedding(ids, self.embedding)[None]
        split = lambda t: t.view(1, t.shape[1], T5["heads"], -1).transpose(1, 2)
        for qkv, out, gates, down in self.layers:
            q, k, v = (split(t) for t in F.linear(F.rms_norm(x, self.norm.shape, self.norm, 1e-6), qkv).chunk(3, -1))
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=1.0)
            x = x + F.linear(a.transpose(1, 2).flatten(2), out)
            gate, value = F.linear(F.rms_norm(x, self.norm.shape, self.norm, 1e-6), gates).chunk(2, -1)
            x = x + F.linear(F.gelu(gate, approximate="tanh") * value, down)
        return F.rms_norm(x, self.norm.shape, self.norm, 1e-6)


class Decoder(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        conv = lambda a, b, k=3: torch.nn.Conv2d(a, b, k, padding=k // 2)
        top = WIDTHS[-1]
        self.enter, layers, width = conv(d, top), [("block", top, top)] * 2, top
        for level in range(len(WIDTHS) - 1, -1, -1):
            for _ in range(3):
                layers.append(("block", width, WIDTHS[level]))
                width = WIDTHS[level]
            if level:
                layers.append(("up", width, width))
        self.layers = torch.nn.ModuleList()
        for kind, a, b in layers:
            if kind == "up":
                self.layers.append(torch.nn.ModuleDict({"up": conv(a, a)}))
                continue
            parts = {"n1": torch.nn.GroupNorm(32, a, 1e-6), "c1": conv(a, b), "n2": torch.nn.GroupNorm(32, b, 1e-6), "c2": conv(b, b)}
            self.layers.append(torch.nn.ModuleDict(parts | ({"s": conv(a, b, 1)} if a != b else {})))
        self.norm, self.leave = torch.nn.GroupNorm(32, width, 1e-6), conv(width, 3)

    def forward(self, z):
        x = self.enter(z)
        for layer in self.layers:
            if "up" in layer:
                x = layer["up"](F.interpolate(x, scale_factor=2, mode="nearest"))
                continue
            h = layer["c2"](F.silu(layer["n2"](layer["c1"](F.silu(layer["n1"](x))))))
            x = h + (layer["s"](x) if "s" in layer else x)
        rgb = self.leave(F.silu(self.norm(x))).clamp(-1, 1)
        return ((rgb + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class Picture:
    """Everything of a model that a picture is made with; weights are made once."""

    def __init__(self, size, pixels, dtype, device, text):
        C, D, H, self.chunks, self.d = SIZES[size]
        self.C, self.hd, self.dtype, self.device, self.text = C, C // H, dtype, device, text
        self.sides = SIDES[:COUNT[pixels]]
        w = lambda *shape: torch.randn(*shape, dtype=dtype, device=device) / shape[-1] ** 0.5
        self.encoder = Encoder(dtype, device, text)
        self.blocks = [Block(C, H, dtype, device, 2, sum(s * s for s in self.sides), text) for _ in range(D)]
        self.to_ctx, self.ctx_out, self.pool = w(C, T5["width"]), w(C, C), w(C, T5["width"])
        self.kv = [w(2 * C, C) for _ in range(D)]
        self.ada, self.embed, self.head = w(6 * C, C), w(C, self.d), w(2 * self.d, C)
        self.decoder = Decoder(self.d).to(device, dtype, memory_format=torch.channels_last).eval()
        self.graphs = {}

    def encode(self, ids):
        """Cross-attention keys and values of both rows, once a prompt; the null row's features are learned."""
        features = torch.cat([self.encoder(ids), self.encoder.embedding[None, :self.text]])
        cond = F.linear(features.mean(1), self.pool)
        ctx = F.linear(F.gelu(F.linear(features, self.to_ctx), approximate="tanh"), self.ctx_out)
        F.linear(F.silu(cond), self.ada)
        for block, kv in zip(self.blocks, self.kv):
            k, v = (t.view(2, self.text, block.H, -1).transpose(1, 2) for t in F.linear(ctx, kv).chunk(2, -1))
            block.ck.copy_(k), block.cv.copy_(v)
        return cond[:, None]

    def run_blocks(self, x, rank_list, L):
        per = len(self.blocks) // self.chunks
        for c in range(self.chunks):
            r, y = L, x
            if rank_list:
                r = rank_list[c]
                y = (torch.randn(r, L, dtype=self.dtype, device=self.device) / r ** 0.5) @ x
            cos = sin = torch.full((r, self.hd // 2), 0.5 ** 0.5, dtype=self.dtype, device=self.device)
            for block in self.blocks[c * per:(c + 1) * per]:
                y = block(y, cos, sin)
            if rank_list:
                x = x.clone()
                keys = x.float().square().sum(-1).log() - torch.empty(1, L, device=self.device).exponential_().log()
                x[:, keys.topk(r).indices[0]] = y
            else:
                x = y
        return x

    def scale(self, key, x, ranks, L):
        """Blocks of one scale, captured and replayed where asked for; the cache is written at fixed places."""
        if key is None:
            return self.run_blocks(x, ranks, L)
        if key not in self.graphs:
            filled = [b.filled for b in self.blocks]
            reset = lambda: [setattr(b, "filled", f) for b, f in zip(self.blocks, filled)]
            static = x.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.run_blocks(static, ranks, L)
            torch.cuda.current_stream().wait_stream(side)
            reset()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = self.run_blocks(static, ranks, L)
            self.graphs[key] = (graph, static, out, [b.filled for b in self.blocks])
        graph, static, out, filled = self.graphs[key]
        static.copy_(x)
        graph.replay()
        for b, f in zip(self.blocks, filled):
            b.filled = f
        return out

    def draw(self, method, pixels, seed, graphs, mark):
        torch.manual_seed(seed)
        ids = torch.randint(0, 32000, (self.text,), device=self.device)
        for b in self.blocks:
            b.filled = 0
        start = self.encode(ids)
        mark("text")
        full = self.sides[-1]
        latent = torch.zeros(1, self.d, full, full, device=self.device)
        for k, (side, rows, ranks) in enumerate(plan(method, pixels, self.chunks)):
            L = side * side
            if k == 0:
                x = start
            else:
                u = F.interpolate(latent, (side, side), mode="bilinear", antialias=side < full)
                x = F.linear(u.flatten(2).transpose(1, 2).to(self.dtype), self.embed).expand(rows, L, self.C).contiguous()
            x = self.scale((method, k) if graphs else None, x, ranks, L)
            pair = F.linear(F.layer_norm(x, (self.C,), eps=1e-6), self.head).float()
            logits = pair[..., self.d:] - pair[..., :self.d]
            z = (4 * logits[:1] - 3 * logits[1:] if rows == 2 else logits) / 0.5
            bits = torch.bernoulli(torch.sigmoid(z))
            codes = ((2 * bits - 1) / self.d ** 0.5).transpose(1, 2).view(1, self.d, side, side)
            latent = latent + F.interpolate(codes, (full, full), mode="bilinear")
        mark("transformer")
        z = latent.to(self.dtype, memory_format=torch.channels_last)
        if graphs:
            if "decoder" not in self.graphs:
                static = z.clone(memory_format=torch.channels_last)
                self.decoder(static)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out = self.decoder(static)
                self.graphs["decoder"] = (graph, static, out)
            graph, static, out = self.graphs["decoder"]
            static.copy_(z)
            graph.replay()
        else:
            out = self.decoder(z)
        rgb = out[0].cpu().numpy()
        mark("decode")
        data = png(rgb)
        mark("encode")
        return data


def png(rgb):
    try:
        from PIL import Image
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, "PNG", compress_level=3)
        return out.getvalue()
    except ImportError:
        return zlib.compress(rgb.tobytes(), 3)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--size", choices=["2b"], default="2b")
    ap.add_argument("--pixels", choices=COUNT, default="1M")
    ap.add_argument("--method", default="vanilla,stagevar")
    ap.add_argument("--dtype", choices=DTYPES, default="bf16")
    ap.add_argument("--text", type=int, default=9, help="prompt tokens")
    ap.add_argument("--runs", type=int, default=10)
    ap.add_argument("--device", default="cuda")
    ap.add_argument("--cuda-graphs", action="store_true")
    args = ap.parse_args()
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    if args.cuda_graphs and args.device != "cuda":
        ap.error("--cuda-graphs wants --device cuda")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    with torch.inference_mode():
        picture = Picture(args.size, args.pixels, DTYPES[args.dtype], args.device, args.text)
        for method in args.method.split(","):
            wholes, phases = [], {}
            for run in range(args.runs + 2):
                begin = last = time.perf_counter()

                def mark(phase):
                    nonlocal last
                    wait() if run % 2 else None  # phases are known of every other picture; the rest shows what waiting costs
                    now = time.perf_counter()
                    if run >= 2 and run % 2:
                        phases.setdefault(phase, []).append((now - last) * 1000)
                    last = now

                data = picture.draw(method, args.pixels, run, args.cuda_graphs, mark)
                if run >= 2:
                    wholes.append((time.perf_counter() - begin) * 1000)
            median = {phase: round(statistics.median(times), 1) for phase, times in phases.items()}
            print(f"PyTorch {torch.__version__} on {name}, {args.dtype}, {method} at {args.pixels}, "
                  f"{'CUDA graphs' if args.cuda_graphs else 'eager'}: {statistics.median(wholes):.1f} ms (median of {args.runs}) {median} "
                  f"{len(data)} bytes of PNG")
            print(json.dumps({"twin": "pytorch", "method": method, "pixels": args.pixels, "dtype": args.dtype, "graphs": args.cuda_graphs,
                              "gpu": name, "whole_ms": [round(t, 1) for t in wholes], "phases_ms": median}))


if __name__ == "__main__":
    main()
