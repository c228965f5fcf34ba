"""The PyTorch twin of the speed comparison: Infinity's scale loop with random weights, as fast as eager PyTorch runs it.

    python bench/pytorch_infinity.py --pixels 0.25M --method vanilla --dtype f32 --threads 2 [--depth 32] [--json]
    python bench/pytorch_infinity.py --whole --device cuda --dtype bf16 --pixels 1M --method vanilla,stagevar --runs 10 [--cuda-graphs]

scaled_dot_product_attention, a preallocated KV cache, cross-attention keys and values computed once a prompt; eval mode,
no autograd. Same shapes, schedule, batch rows (2 with guidance, 1 on the null row) and steps as `stagevar plan` prints.
Weights are random: the time does not depend on them. --depth runs fewer blocks and scales nothing. The transformer alone is
timed (text encoder, decoder and PNG are not), after one warm-up of the first four scales.

--whole times pictures from token ids to PNG (pytorch_infinity_parts.py): T5-XL's encoder on --text tokens, text projections,
scale loop with word embedding, head, guidance, bits and running latent, restoration of stagevar's tokens, decoder, bytes, copy
to the host, PNG. One picture warms up, then --runs pictures are timed that wait for the device once, at the copy, and up to five
that wait after every phase. Methods are a list with commas: weights are made once. Medians are printed; the last line is JSON
with all times in ms. Its flags:
  --cuda-graphs   captures the text's work, each scale's and the decoder's as a graph each and replays them (eager if that fails)
  --sdpa cudnn    prefers cuDNN's attention, which a Hopper GPU may run faster than the one PyTorch takes by itself
  --group-norm    the decoder's: torch, by-channel (no copies between memory formats), or by default whichever is faster on this GPU
  --tiny          T5 of two layers and a decoder of a quarter of the widths, to try it all on a CPU; no measurement
Bits and rows are drawn from numbers made at the picture's start ("draw"), so that graphs hold no generator. At most 512 tokens of text.
"""
import argparse
import json
import math
import platform
import statistics
import time

import torch
import torch.nn.functional as F

import pytorch_infinity_parts as parts

SIDES = [1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64]
COUNT = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
SIZES = {"2b": (2048, 32, 16, 8, 32), "8b": (3584, 40, 28, 8, 56), "125m": (768, 12, 8, 4, 16)}  # C, D, H, chunks, d_tok
RATIOS = [.016776672694393688, .13648282097649195, .21039203774864412, .2502819846292948,
          .2558836742766729, .1978790404611215, .1570015822784809, .19090034471066883]  # alpha 0.96, third scale from the end
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Block:
    def __init__(self, C, H, dtype, device, rows, capacity, text):
        w = lambda *shape: torch.randn(*shape, dtype=dtype, device=device) * (0.7 / math.sqrt(shape[-1]))
        self.H = H
        self.qkv, self.qkv_b = w(3 * C, C), w(3 * C)
        self.proj, self.proj_b = w(C, C), w(C)
        self.caq, self.caq_b, self.cap, self.cap_b = w(C, C), w(C), w(C, C), w(C)
        self.fc1, self.fc1_b, self.fc2, self.fc2_b = w(4 * C, C), w(4 * C), w(C, 4 * C), w(C)
        self.norm = (torch.ones(C, dtype=dtype, device=device), w(C))
        self.ada = w(6, 1, 1, C)
        self.temperature = torch.full((H, 1, 1), 5.0, dtype=dtype, device=device)
        hd = C // H
        self.k = torch.empty(rows, H, capacity, hd, dtype=dtype, device=device)
        self.v = torch.empty_like(self.k)
        self.ck, self.cv = w(rows, H, text, hd), w(rows, H, text, hd)  # cross attention, once a prompt
        self.filled = 0

    def __call__(self, x, cos, sin):
        R, L, C = x.shape
        g1, g2, s1, s2, b1, b2 = self.ada
        split = lambda t: t.view(R, L, self.H, -1).transpose(1, 2)  # [R, H, L, hd]
        y = F.layer_norm(x, (C,), eps=1e-6) * (1 + s1) + b1
        q, k, v = (split(t) for t in F.linear(y, self.qkv, self.qkv_b).split(C, -1))
        q, k = F.normalize(q, dim=-1) * self.temperature, F.normalize(k, dim=-1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        end = self.filled + L
        self.k[-R:, :, self.filled:end], self.v[-R:, :, self.filled:end] = k, v
        self.filled = end
        a = F.scaled_dot_product_attention(q, self.k[-R:, :, :end], self.v[-R:, :, :end], scale=1.0)
        x = x + F.linear(a.transpose(1, 2).reshape(R, L, C), self.proj, self.proj_b) * g1
        q = split(F.linear(F.layer_norm(x, (C,), *self.norm, 1e-6), self.caq, self.caq_b))
        a = F.scaled_dot_product_attention(q, self.ck[-R:], self.cv[-R:])
        x = x + F.linear(a.transpose(1, 2).reshape(R, L, C), self.cap, self.cap_b)
        f = F.gelu(F.linear(F.layer_norm(x, (C,), eps=1e-6) * (1 + s2) + b2, self.fc1, self.fc1_b), approximate="tanh")
        return x + F.linear(f, self.fc2, self.fc2_b) * g2


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)


def plan(method, pixels, chunks):
    """(side, rows, ranks a chunk or None) of every scale; the last three are the fidelity stage."""
    sides = SIDES[:COUNT[pixels]]
    steps = [(s, 2, None) for s in sides]
    if method == "stagevar":
        M = sides[-3] ** 2
        steps[-3:] = [(sides[-3], 1, [min(M, int(r * M) + 1) for r in RATIOS[:chunks]])]
    return steps


def run(blocks, chunks, steps, C, hd, dtype, device):
    per, spent = len(blocks) // chunks, []
    for b in blocks:
        b.filled = 0
    for side, rows, ranks in steps:
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        L = side * side
        x = torch.randn(rows, L, C, dtype=dtype, device=device)
        for c in range(chunks):
            if ranks:
                r = ranks[c]
                y = (torch.randn(r, L, dtype=dtype, device=device) / math.sqrt(r)) @ x
            else:
                r, y = L, x
            cos = sin = torch.full((r, hd // 2), math.sqrt(0.5), dtype=dtype, device=device)
            for b in blocks[c * per:(c + 1) * per]:
                y = b(y, cos, sin)
            if ranks:
                x = x.clone()
                x[:, torch.randperm(L, device=device)[:r]] = y
            else:
                x = y
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append((side, time.perf_counter() - begin))
    return spent


class Picture:
    """All of a model that pictures are made with, as stages to be called one after the other."""

    def __init__(self, args, methods):
        size, self.device, w = SIZES[args.size], args.device, parts.Weights(DTYPES[args.dtype], args.device)
        plans = {method: plan(method, args.pixels, size[3]) for method in methods}
        sides = SIDES[:COUNT[args.pixels]]
        t5 = parts.T5_TINY if args.tiny else parts.T5_XL
        widths = [width // 4 if args.tiny else width for width in parts.WIDTHS[args.size]]
        self.encoder = parts.TextEncoder(w, args.text, **t5)
        self.transformer = parts.Transformer(w, size, args.size, args.depth or size[1], sides, plans, args.text, t5["width"])
        self.decoder = parts.Decoder(w, self.transformer.d, widths, self.transformer.full)
        self.vocabulary, self.ids = t5["vocabulary"], w.buffer(args.text, dtype=torch.long)
        pinned = dict(pin_memory=True) if self.cuda else {}
        self.prompt = torch.zeros(args.text, dtype=torch.long, **pinned)
        self.pixels = torch.empty(self.decoder.pixels.shape, dtype=torch.uint8, **pinned)
        self.generator = torch.Generator(device=self.device)  # not the default one, which a failed capture may spoil
        self.graphs, self.pool = {}, None

    @property
    def cuda(self):
        return torch.device(self.device).type == "cuda"

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def stages(self, method):
        """(name, work) in order; what is captured is replayed."""
        all = [("draw", lambda: self.begin(method)), *self.work(method), ("to host", self.fetch)]
        return [(name, self.graphs.get(self.key(method, name), work)) for name, work in all]

    def work(self, method):
        """What can be captured: it reads and writes buffers alone."""
        model = self.transformer
        text = lambda: model.prompt(self.encoder(self.ids))
        scales = [(f"{step.side}x{step.side}", lambda step=step: model.scale(step)) for step in model.steps[method]]
        return [("text", text), *scales, ("decode", lambda: self.decoder(model.latent))]

    @staticmethod
    def key(method, name):
        return name if name in ("text", "decode") else (method, name)

    def begin(self, method):
        self.prompt.random_(0, self.vocabulary)
        self.ids.copy_(self.prompt, non_blocking=True)
        self.transformer.begin(method, self.generator)

    def fetch(self):
        self.pixels.copy_(self.decoder.pixels, non_blocking=True)
        self.wait()

    def draw(self, method, seed, waits):
        """Makes a picture; ms until its bytes are here, until it is a PNG, and with waits of each stage."""
        ms = lambda seconds: round(seconds * 1000, 3)
        self.generator.manual_seed(seed)
        stages, phases = self.stages(method), {}
        self.wait()
        begin = last = time.perf_counter()
        for name, work in stages:
            work()
            if waits:
                self.wait()
                now = time.perf_counter()
                phases[name], last = ms(now - last), now
        here = time.perf_counter()
        self.file = parts.png(self.pixels)
        end = time.perf_counter()
        return ms(here - begin), ms(end - begin), {**phases, "png": ms(end - here)}

    def faster_norm(self, choice):
        """Sets the decoder's group norm: the one asked for, or the faster on this device."""
        self.decoder.by_channel = choice == "by-channel"
        if choice != "auto" or not self.cuda:
            return
        times = []
        for self.decoder.by_channel in (False, True):
            self.decoder(self.transformer.latent)
            self.wait()
            begin = time.perf_counter()
            for _ in range(3):
                self.decoder(self.transformer.latent)
            self.wait()
            times.append(time.perf_counter() - begin)
        self.decoder.by_channel = times[1] < times[0]

    def capture(self, method):
        """One graph a stage, all in one pool: no stage leaves anything there for another. Says why not, if it cannot."""
        name, current = "", torch.cuda.current_stream()
        try:
            self.pool = self.pool or (torch.cuda.graph_pool_handle(), torch.cuda.Stream())
            pool, side = self.pool
            for name, work in self.work(method):
                if self.key(method, name) in self.graphs:
                    continue
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):  # what is set up at a first call must not be captured
                    work()
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    work()
                self.graphs[self.key(method, name)] = graph.replay
        except Exception as error:
            torch.cuda.set_stream(current)  # it may still be the capture's
            self.graphs = {}
            while error.__context__:  # the end of a failed capture fails too, and says less
                error = error.__context__
            return f"{method}, {name}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def whole(args, methods):
    cuda = torch.device(args.device).type == "cuda"
    torch.backends.cudnn.benchmark = cuda
    name = torch.cuda.get_device_name() if cuda else platform.machine()
    failure = "CUDA graphs need --device cuda" if args.cuda_graphs and not cuda else None
    reports = {}
    torch.manual_seed(0)
    with torch.inference_mode(), parts.attention(args.sdpa):
        picture = Picture(args, methods)
        picture.draw(methods[0], 0, False)
        picture.faster_norm(args.group_norm)
        for method in methods:
            picture.draw(method, 0, False)  # warms up; what cannot run at all fails here, not in a capture
        if args.cuda_graphs and not failure:
            failure = next(filter(None, map(picture.capture, methods)), None)
            for method in methods:
                picture.draw(method, 0, False)
        if failure:
            print(f"No CUDA graphs, going on eagerly: {failure}")
        for method in methods:
            plain = [picture.draw(method, 1 + i, False) for i in range(args.runs)]
            waiting = [picture.draw(method, 1 + i, True) for i in range(min(args.runs, 5))]
            stages = {key: [phases[key] for _, _, phases in waiting] for key in waiting[0][2]}
            scales = {key: times for key, times in stages.items() if key[0].isdigit()}
            phases = {"draw": stages["draw"], "text": stages["text"], "transformer": [round(sum(t), 3) for t in zip(*scales.values())],
                      **{key.replace(" ", "_"): stages[key] for key in ("decode", "to host", "png")}}
            reports[method] = {"whole_ms": [t for _, t, _ in plain], "pixels_ms": [t for t, _, _ in plain],
                               "png_ms": [p["png"] for _, _, p in plain], "waiting_whole_ms": [t for _, t, _ in waiting],
                               "phases_ms": phases, "scales_ms": scales, "png_bytes": len(picture.file)}
    graphs = bool(picture.graphs)
    median = statistics.median
    norm = "by-channel" if picture.decoder.by_channel else "torch"
    depth = args.depth or SIZES[args.size][1]
    encoder = f"{'Pillow' if parts.Image else 'zlib'} level 3"
    for method, report in reports.items():
        print(f"PyTorch {torch.__version__}, {name}, {args.size} {args.dtype}{' (tiny T5 and decoder)' if args.tiny else ''}, {depth} blocks, "
              f"{method} at {args.pixels}, {'CUDA graphs' if graphs else 'eager'}: {median(report['whole_ms']):.1f} ms a picture, "
              f"{median(report['pixels_ms']):.1f} without PNG (median of {args.runs})")
        phases = {key: median(times) for key, times in report["phases_ms"].items()}
        print(f"  {median(report['waiting_whole_ms']):.1f} ms with waits between: "
              + ", ".join(f"{key} {ms:.1f}" for key, ms in phases.items()) + f" ({encoder}, {report['png_bytes']} bytes)")
        for side, times in report["scales_ms"].items():
            print(f"  {side:>7s} {median(times):10.1f} ms")
    facts = {"twin": "pytorch", "whole": True, "torch": torch.__version__, "device": name, "size": args.size, "dtype": args.dtype,
             "threads": args.threads, "depth": depth, "pixels": args.pixels, "text": args.text, "tiny": args.tiny, "cuda_graphs": graphs,
             "no_graphs": failure, "sdpa": args.sdpa, "group_norm": norm, "png": encoder,
             "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None, "methods": reports}
    print(json.dumps(facts))


def methods_of(text):
    methods = text.split(",")
    if not methods or any(method not in ("vanilla", "stagevar") for method in methods):
        raise argparse.ArgumentTypeError(f"\"{text}\" is no list of vanilla and stagevar")
    return list(dict.fromkeys(methods))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--size", choices=SIZES, default="2b")
    ap.add_argument("--pixels", choices=COUNT, default="0.06M")
    ap.add_argument("--method", type=methods_of, default=["vanilla"], help="vanilla, stagevar or both, with a comma")
    ap.add_argument("--dtype", choices=DTYPES, default="f32")
    ap.add_argument("--threads", type=int, default=torch.get_num_threads())
    ap.add_argument("--depth", type=int)
    ap.add_argument("--text", type=int, default=64, help="prompt tokens")
    ap.add_argument("--runs", type=int, default=1)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--whole", action="store_true", help="from token ids to PNG, not the transformer alone")
    ap.add_argument("--cuda-graphs", action="store_true", help="with --whole: capture and replay")
    ap.add_argument("--sdpa", choices=["auto", "flash", "cudnn"], default="auto", help="with --whole: attention to prefer")
    ap.add_argument("--group-norm", choices=["auto", "torch", "by-channel"], default="auto", help="with --whole: the decoder's")
    ap.add_argument("--tiny", action="store_true", help="with --whole: a small T5 and decoder, to try it on a CPU")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    C, D, H, chunks, _ = SIZES[args.size]
    D, dtype = args.depth or D, DTYPES[args.dtype]
    assert D % chunks == 0, f"depth {D} is no multiple of {chunks} chunks"
    if args.whole:
        return whole(args, args.method)
    if args.cuda_graphs or args.tiny:
        ap.error("--cuda-graphs and --tiny go with --whole")
    plans = {method: plan(method, args.pixels, chunks) for method in args.method}
    capacity = max(sum(max(ranks) if ranks else s * s for s, _, ranks in steps) for steps in plans.values())
    with torch.inference_mode():
        blocks = [Block(C, H, dtype, args.device, 2, capacity, args.text) for _ in range(D)]
        for method, steps in plans.items():
            run(blocks, chunks, steps[:4], C, C // H, dtype, args.device)
            runs = [run(blocks, chunks, steps, C, C // H, dtype, args.device) for _ in range(args.runs)]
            report(args, D, method, runs)


def report(args, D, method, runs):
    totals = [sum(t for _, t in spent) for spent in runs]
    best = runs[totals.index(min(totals))]
    print(f"PyTorch {torch.__version__}, {platform.machine()}, {args.threads} threads, {args.size} {args.dtype}, {D} blocks, "
          f"{method} at {args.pixels}: {min(totals):.2f} s (best of {args.runs})")
    for side, seconds in best:
        print(f"  {side:3d}x{side:<3d} {seconds * 1000:10.1f} ms")
    print(json.dumps({"twin": "pytorch", "size": args.size, "dtype": args.dtype, "threads": args.threads, "depth": D, "method": method,
                      "pixels": args.pixels, "seconds": totals, "scales_ms": [round(t * 1000, 2) for _, t in best]}))


if __name__ == "__main__":
    main()
