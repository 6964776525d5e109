#!/usr/bin/env python3
"""A server under load: many clients at once on loopback, with mixed lengths and images, some of which leave early.

    python tests/benchmarks/load.py --model quickstart_output/merged --data quickstart_output/data/eval.json

First one client asks by itself, which also tells the right answer to every question; then --clients ask for --seconds.
Half of the requests are streamed; one in ten is left before its end. Clients run in processes of their own. Prints one
line of JSON. Exits 1 if a request fails but for 429, an answer differs from the one given alone, a request is lost, or
throughput is below --bound times that of one client.
"""

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

# The checkout's root in place of this folder: works without an installation.
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

NUM_QUESTIONS = 60
LENGTHS = (2, 4, 8, 16, 48)  # max_completion_tokens
LEAVING = 0.1  # of the requests


def requests_of(path):
    """Bodies of requests: the questions of a data file at every length."""
    from paddle_xc2.data.questions import QuestionFile
    from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER

    questions, bodies = QuestionFile(path), []
    for index in range(min(NUM_QUESTIONS, len(questions))):
        request = questions[index].request
        urls = ["data:image/png;base64," + base64.b64encode(image.read_bytes()).decode() for image in request.images]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        text = request.query.replace(IMAGE_PLACEHOLDER, "")
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        for length in LENGTHS:
            bodies.append({"model": "served", "messages": messages, "temperature": 0, "max_completion_tokens": length})
    return bodies


async def ask(client, body, leaves):
    """(status, answer or None if it was left, seconds to the first token)."""
    import httpx

    start, first, text = time.perf_counter(), None, ""
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return response.status_code, None, None
            if not body.get("stream"):
                content = json.loads(await response.aread())
                return 200, content["choices"][0]["message"]["content"], None
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                if new := choice["delta"].get("content"):
                    first, text = first or time.perf_counter() - start, text + new
                    if leaves:
                        return 200, None, first
            return 200, text, first
    except httpx.HTTPError as error:
        return type(error).__name__, None, None


async def clients(url, bodies, right, number, seconds, seed):
    """What `number` clients saw: counts by status, answers that differ, seconds to first tokens."""
    import httpx

    draws, end = random.Random(seed), time.monotonic() + seconds
    seen = {"done": 0, "left": 0, "busy": 0, "failed": [], "wrong": [], "first": []}

    async def one(client):
        while time.monotonic() < end:
            index = draws.randrange(len(bodies))
            streams, leaves = draws.random() < 0.5, draws.random() < LEAVING
            status, answer, first = await ask(client, bodies[index] | {"stream": streams or leaves}, leaves)
            if first is not None:
                seen["first"].append(first)
            if status == 429:
                seen["busy"] += 1
                await asyncio.sleep(0.5)
            elif status != 200:
                seen["failed"].append(status)
            elif answer is None:
                seen["left"] += 1
            else:
                seen["done"] += 1
                if right is not None and answer != right[index]:
                    seen["wrong"].append((index, answer, right[index]))

    limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(number)))
    return seen


async def alone(url, bodies):
    """The answer to each request when nothing else is asked."""
    import httpx

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        return [(await ask(client, body, leaves=False))[1] for body in bodies]


def in_process(arguments):
    return asyncio.run(clients(*arguments))


def started(model, port):
    """The server's process, once it answers."""
    import requests

    command = [sys.executable, "-m", "paddle_xc2", "serve", "--from_pretrained", model, "--port", str(port)]
    process = subprocess.Popen([*command, "--served_model_name", "served", "--max_waiting", "64"], cwd=ROOT)
    while process.poll() is None:
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
            return process
        except requests.RequestException:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def memory(process):
    """Resident MB of the server."""
    import psutil

    return psutil.Process(process.pid).memory_info().rss / 1e6


def measured(url, bodies, args, process):
    """The numbers of the whole run."""
    right = asyncio.run(alone(url, bodies))
    single = asyncio.run(clients(url, bodies, right, 1, args.seconds / 4, seed=0))
    before, parts = memory(process), args.processes
    with multiprocessing.get_context("spawn").Pool(parts) as pool:
        jobs = [(url, bodies, right, args.clients // parts, args.seconds, 1 + part) for part in range(parts)]
        seen = pool.map(in_process, jobs)
    first = sorted(value for one in seen for value in one["first"])
    rate_alone = (single["done"] + single["left"]) / (args.seconds / 4)
    rate = sum(one["done"] + one["left"] for one in seen) / args.seconds
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        "requests_per_second_alone": round(rate_alone, 1),
        "requests_per_second": round(rate, 1),
        "times": round(rate / rate_alone, 2),
        "done": sum(one["done"] for one in seen),
        "left": sum(one["left"] for one in seen),
        "busy": sum(one["busy"] for one in seen),
        "failed": [status for one in (*seen, single) for status in one["failed"]],
        "wrong": [answer for one in (*seen, single) for answer in one["wrong"]][:5],
        "first_token_median": round(first[len(first) // 2], 3),
        "first_token_p99": round(first[int(len(first) * 0.99)], 3),
        "memory_mb": [round(before), round(memory(process))],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint")
    parser.add_argument("--data", required=True, help="data file with questions")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2, help="that the clients run in")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--bound", type=float, default=4.0, help="times the throughput of one client")
    args = parser.parse_args()
    bodies, process = requests_of(args.data), started(args.model, args.port)
    try:
        result = measured(f"http://127.0.0.1:{args.port}", bodies, args, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    print(json.dumps(result, ensure_ascii=False))
    return int(bool(result["failed"] or result["wrong"]) or result["times"] < args.bound)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the demo's products are small
    sys.exit(main())
