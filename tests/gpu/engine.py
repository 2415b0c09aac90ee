"""A language model server on this machine's GPU that answers and counts like a TGI router with chunking.

For trying calibrate on real forwards where TGI itself cannot be installed: the model has the shape of a Llama of 8
billion weights (random ones), runs in bfloat16 with PyTorch, decodes from CUDA graphs at padded batch sizes, and lets
requests join at every step, in one forward with those that run. It was written without calibrate's own model of a
server, so what calibrate finds on it is not calibrate agreeing with itself.

    python3 tests/gpu/engine.py --port 3000        # needs torch and aiohttp

It speaks `/generate_stream` with `details`, `/info`, `/health` and `/metrics`; a word of the prompt is a token.
"""

import argparse
import asyncio
import collections
import json
import multiprocessing
import time

BOUNDS = [0.0001 * 1.5**k for k in range(1, 36)]


class Model:
    """The weights, the KV cache, and a forward of joiners and running sequences together.

    The running sequences own the first rows of the cache, joiners the next ones.
    """

    def __init__(self, options):
        import torch

        self.torch, self.options = torch, options
        small = options.device == "cpu"
        self.layers, self.width, self.heads, self.kv_heads, self.inner, self.vocabulary = (
            (2, 64, 4, 2, 128, 512) if small else (32, 4096, 32, 8, 14336, 32000)
        )
        self.head = self.width // self.heads
        self.length, self.rows = options.max_total_tokens, options.rows
        self.kind = {"device": options.device, "dtype": torch.float32 if small else torch.bfloat16}
        torch.manual_seed(1)
        self.embedding = self.weight(self.vocabulary, self.width)
        self.blocks = [
            {
                "qkv": self.weight(self.width, (self.heads + 2 * self.kv_heads) * self.head),
                "out": self.weight(self.heads * self.head, self.width),
                "up": self.weight(self.width, 2 * self.inner),
                "down": self.weight(self.inner, self.width),
            }
            for _ in range(self.layers)
        ]
        shape = (self.layers, self.rows, self.kv_heads, self.length, self.head)
        self.keys, self.values = torch.zeros(shape, **self.kind), torch.zeros(shape, **self.kind)
        angles = torch.arange(self.length)[:, None] / 10000 ** (torch.arange(0, self.head, 2) / self.head)
        self.cos, self.sin = angles.cos().to(**self.kind), angles.sin().to(**self.kind)
        # What the graphs read: the last token of each running sequence and its position.
        self.last = torch.zeros(self.rows, dtype=torch.long, device=options.device)
        self.position = torch.zeros(self.rows, dtype=torch.long, device=options.device)
        self.graphs = {} if small else {size: self.capture(size) for size in graph_sizes(self.rows)}

    def weight(self, *shape):
        return self.torch.randn(*shape, **self.kind) * shape[0] ** -0.5

    def norm(self, x):
        return self.torch.nn.functional.rms_norm(x, (self.width,))

    def rotate(self, x, position):
        """Rotary position embedding of x [tokens, heads, head]."""
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        return self.torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def forward(self, running, prompts=None, lengths=None):
        """One forward: `running` rows get a token, and so does each row of `prompts` [joiners, tokens]."""
        torch, functional = self.torch, self.torch.nn.functional
        tokens, positions = self.last[:running], self.position[:running]
        joiners, padded = (0, 0) if prompts is None else prompts.shape
        if joiners:
            steps = torch.arange(padded, device=tokens.device).repeat(joiners)
            tokens, positions = torch.cat((prompts.flatten(), tokens)), torch.cat((steps, positions))
        row = torch.arange(running, device=tokens.device)
        hidden = torch.arange(self.length, device=tokens.device) > self.position[:running, None]
        bias = torch.zeros(hidden.shape, **self.kind).masked_fill(hidden, float("-inf"))[:, None, None]
        split = joiners * padded
        x = self.embedding[tokens]
        for index, block in enumerate(self.blocks):
            qkv = (self.norm(x) @ block["qkv"]).view(len(tokens), -1, self.head)
            q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
            q, k = self.rotate(q, positions), self.rotate(k, positions)
            keys, values, mixed = self.keys[index], self.values[index], []
            if joiners:
                shaped = [part[:split].view(joiners, padded, -1, self.head).transpose(1, 2) for part in (q, k, v)]
                keys[running : running + joiners, :, :padded] = shaped[1]
                values[running : running + joiners, :, :padded] = shaped[2]
                seen = functional.scaled_dot_product_attention(*shaped, is_causal=True, enable_gqa=True)
                mixed.append(seen.transpose(1, 2).reshape(split, -1))
            if running:
                keys[row, :, positions[split:]], values[row, :, positions[split:]] = k[split:], v[split:]
                groups = q[split:].view(running, self.kv_heads, -1, self.head)
                scores = groups @ keys[:running].transpose(-1, -2) * self.head**-0.5 + bias
                mixed.append((scores.softmax(-1) @ values[:running]).view(running, -1))
            x = x + torch.cat(mixed) @ block["out"]
            gate, up = (self.norm(x) @ block["up"]).chunk(2, -1)
            x = x + (functional.silu(gate) * up) @ block["down"]
        if joiners:
            ends = torch.arange(joiners, device=x.device) * padded + lengths - 1
            x = torch.cat((x[split:], x[ends]))
        return (self.norm(x) @ self.embedding.T).argmax(-1)

    def capture(self, size):
        """A CUDA graph of a decode of `size` sequences."""
        stream = self.torch.cuda.Stream()
        with self.torch.no_grad(), self.torch.cuda.stream(stream):
            for _ in range(2):
                self.forward(size)
            stream.synchronize()
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph, stream=stream):
                out = self.forward(size)
        return graph, out

    def decode(self, running):
        size = next((size for size in self.graphs if size >= running), None)
        if size is None:
            out = self.forward(running)
        else:
            graph, out = self.graphs[size]
            graph.replay()
        return self.advance(out[:running])

    def prefill(self, running, prompts):
        lengths = self.torch.tensor([len(prompt) for prompt in prompts], device=self.options.device)
        longest = -(-max(len(prompt) for prompt in prompts) // 64) * 64
        longest = min(longest, self.length)
        padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
        out = self.forward(running, self.torch.tensor(padded, device=self.options.device), lengths)
        self.position[running : running + len(prompts)] = lengths - 1
        return self.advance(out)

    def advance(self, out):
        self.last[: len(out)] = out
        self.position[: len(out)] += 1
        return out.tolist()

    def free(self, row, last):
        """Gives the row of a sequence that ended to the last one."""
        if row != last:
            for kept in (self.keys, self.values):
                kept[:, row] = kept[:, last]
            self.last[row], self.position[row] = self.last[last].clone(), self.position[last].clone()


def graph_sizes(rows):
    return [size for size in (1, 2, 4, *range(8, 1 + max(rows, 8), 8)) if size <= rows]


def engine(options, pipe):
    """The process that holds the GPU: takes (id, prompt, output tokens), tells what it did."""
    import torch

    model = Model(options)
    pipe.send(("ready",))
    queue, running, reserved, concatenated = collections.deque(), [], 0, False
    with torch.no_grad():
        while True:
            while pipe.poll(0 if queue or running else None):
                queue.append(pipe.recv())
            joining, tokens, longest = [], 0, 0
            # What joined a running batch is followed by a decode of all, as in TGI.
            while queue and not concatenated and len(running) + len(joining) < options.rows:
                _, prompt, output = queue[0]
                need, longest = len(prompt) + output - 1, max(longest, len(prompt))
                fits = longest * (len(joining) + 1) + len(running) <= options.max_prefill_tokens
                if reserved + need > options.token_budget or not (fits or not joining):
                    break
                reserved += need
                joining.append(queue.popleft())
            began, before = time.perf_counter(), len(running)
            concatenated = bool(joining and running)
            if joining:
                pipe.send(("joined", [request[0] for request in joining], concatenated))
                out = model.prefill(before, [request[1] for request in joining])
                running += [[name, len(prompt), output, output] for name, prompt, output in joining]
            elif running:
                out = model.decode(before)
            else:
                continue
            took = time.perf_counter() - began
            for sequence in running:
                sequence[3] -= 1
            given = [(sequence[0], token, sequence[3] == 0) for sequence, token in zip(running, out)]
            for row in reversed(range(len(running))):
                if running[row][3] == 0:
                    model.free(row, len(running) - 1)
                    reserved -= running[row][1] + running[row][2] - 1
                    running[row] = running[-1]
                    running.pop()
            held = sum(sequence[1] + sequence[2] - 1 for sequence in running)
            pipe.send(("prefill" if joining else "decode", took, len(running), held, given))


class Counts:
    """What `/metrics` shows."""

    def __init__(self):
        self.plain, self.kinds, self.histograms = {}, {}, {}

    def add(self, name, labels="", by=1):
        self.kinds[name] = "counter"
        self.plain[name, labels] = self.plain.get((name, labels), 0) + by

    def set(self, name, value):
        self.kinds[name] = "gauge"
        self.plain[name, ""] = value

    def observe(self, name, value, labels="", times=1):
        held = self.histograms.setdefault((name, labels), [0.0, 0, [0] * len(BOUNDS)])
        held[0] += value * times
        held[1] += times
        for index, bound in enumerate(BOUNDS):
            if value <= bound:
                held[2][index] += times

    def render(self):
        lines = []
        for (name, labels), value in self.plain.items():
            lines += [f"# TYPE {name} {self.kinds[name]}", f"{name}{'{' + labels + '}' if labels else ''} {value}"]
        for (name, labels), (total, count, buckets) in self.histograms.items():
            comma, braces = (labels + "," if labels else ""), ("{" + labels + "}" if labels else "")
            lines.append(f"# TYPE {name} histogram")
            for bound, held in zip([*map(repr, BOUNDS), "+Inf"], [*buckets, count]):
                lines.append(f'{name}_bucket{{{comma}le="{bound}"}} {held}')
            lines += [f"{name}_sum{braces} {total}", f"{name}_count{braces} {count}"]
        return "\n".join(lines) + "\n"


class Router:
    """The HTTP side."""

    def __init__(self, options, pipe):
        self.options, self.pipe, self.counts = options, pipe, Counts()
        self.answers, self.waiting, self.serial, self.ready = {}, 0, 0, asyncio.Event()

    def told(self):
        while self.pipe.poll():
            getattr(self, "on_" + (message := self.pipe.recv())[0])(*message[1:])

    def on_ready(self):
        self.ready.set()

    def on_joined(self, names, concatenated):
        self.waiting -= len(names)
        self.counts.set("tgi_queue_size", self.waiting)
        self.counts.observe("tgi_batch_next_size", len(names))
        if concatenated:
            self.counts.add("tgi_batch_concat", 'reason="chunking"')
        for name in names:
            self.answers[name][1]["joined"] = time.monotonic()

    def on_prefill(self, *told):
        self.forward("prefill", *told)

    def on_decode(self, *told):
        self.forward("decode", *told)

    def forward(self, method, took, batch, held, given):
        counts = self.counts
        counts.add("tgi_batch_inference_count", f'method="{method}"')
        counts.add("tgi_batch_inference_success", f'method="{method}"')
        counts.observe("tgi_batch_inference_duration", took, f'method="{method}"')
        counts.observe("tgi_batch_forward_duration", took, f'method="{method}"')
        counts.set("tgi_queue_size", self.waiting)
        counts.set("tgi_batch_current_size", batch)
        counts.set("tgi_batch_current_max_tokens", held)
        counts.observe("tgi_request_skipped_tokens", 0, times=len(given))
        for name, token, last in given:
            self.answers[name][0].put_nowait((token, last))

    async def generate_stream(self, request):
        from aiohttp import web

        body = await request.json()
        parameters = body.get("parameters", {})
        prompt = [hash(word) % 500 for word in body["inputs"].split()] or [0]
        output = int(parameters.get("max_new_tokens") or 100)
        counts, options, arrived = self.counts, self.options, time.monotonic()
        counts.add("tgi_request_count")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        refusal = None
        if len(prompt) + output > options.max_total_tokens:
            refusal = ("`inputs` tokens + `max_new_tokens` are too many", "validation")
        elif len(self.answers) >= options.max_concurrent_requests:
            refusal = ("Model is overloaded", "overloaded")
        if refusal:
            counts.add("tgi_request_failure", f'err="{refusal[1]}"')
            error = json.dumps({"error": refusal[0], "error_type": refusal[1]})
            await response.write(f"data: {error}\n\n".encode())
            return response
        counts.observe("tgi_request_input_length", len(prompt))
        counts.observe("tgi_request_max_new_tokens", output)
        self.serial += 1
        name, times, tokens, text = self.serial, {}, asyncio.Queue(), []
        self.answers[name] = (tokens, times)
        self.waiting += 1
        counts.set("tgi_queue_size", self.waiting)
        self.pipe.send((name, prompt, output))
        try:
            for index in range(1, output + 1):
                token, last = await tokens.get()
                text.append(f" t{token}")
                event = {"index": index, "token": {"id": token, "text": text[-1], "logprob": -0.5, "special": False}}
                event |= {"generated_text": None, "details": None}
                if last:
                    event["generated_text"] = "".join(text)
                    event["details"] = {"finish_reason": "length", "generated_tokens": index, "seed": None}
                    event["details"]["input_length"] = len(prompt)
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        finally:
            # A client that went away leaves its tokens to nobody; they are made all the same.
            while not last and not (await tokens.get())[1]:
                pass
            del self.answers[name]
        ended = time.monotonic()
        counts.add("tgi_request_success")
        counts.observe("tgi_request_duration", ended - arrived)
        counts.observe("tgi_request_queue_duration", times["joined"] - arrived)
        counts.observe("tgi_request_inference_duration", ended - times["joined"])
        counts.observe("tgi_request_mean_time_per_token_duration", (ended - times["joined"]) / output)
        counts.observe("tgi_request_generated_tokens", output)
        return response


async def serve(options, pipe):
    from aiohttp import web

    router = Router(options, pipe)
    asyncio.get_running_loop().add_reader(pipe.fileno(), router.told)
    await router.ready.wait()
    limits = {"max_total_tokens": options.max_total_tokens, "max_input_tokens": options.max_total_tokens - 1}
    info = {"model_id": "random/llama-8b", "max_concurrent_requests": options.max_concurrent_requests, **limits}
    info |= {"router": "tests/gpu/engine.py", "version": "3.3.7"}
    application = web.Application()

    async def show(body):
        return web.Response(text=body) if isinstance(body, str) else web.json_response(body)

    application.router.add_get("/info", lambda _: show(info))
    application.router.add_get("/health", lambda _: show(""))
    application.router.add_get("/metrics", lambda _: show(router.counts.render()))
    application.router.add_post("/generate_stream", router.generate_stream)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    print(f"serving on 127.0.0.1:{options.port}", flush=True)
    await asyncio.Event().wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--device", default="cuda", help="cpu: a tiny model, to try this program")
    parser.add_argument("--rows", type=int, default=128, help="most sequences at once")
    parser.add_argument("--max-total-tokens", type=int, default=1024)
    parser.add_argument("--token-budget", type=int, default=100_000)
    parser.add_argument("--max-prefill-tokens", type=int, default=4096)
    parser.add_argument("--max-concurrent-requests", type=int, default=512)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=engine, args=(options, theirs), daemon=True).start()
    asyncio.run(serve(options, ours))


if __name__ == "__main__":
    main()
