"""The llama.cpp server that xllamacpp embeds, with continuous batching.

python benchmarks/alternatives/xllamacpp_server.py --model FILE.gguf --port 8001 --slots 8 --context 1280

It runs in a process of its own, and ends with SIGTERM.
"""

import argparse
import os
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--slots", type=int, default=1, help="requests that are decoded together")
    parser.add_argument("--context", type=int, default=1280, help="tokens for each slot, prompt and answer")
    parser.add_argument("--unified", action="store_true", help="one KV buffer for all slots, which lets them share a prefix")
    parser.add_argument("--flash", choices=("auto", "enabled", "disabled"), default="enabled")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames = ["127.0.0.1"]
    params.port = given.port
    params.n_parallel = given.slots
    params.n_ctx = given.slots * given.context
    params.cont_batching = True
    params.kv_unified = given.unified
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{given.flash.upper()}")
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(params)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # its own threads would outlive an ordinary exit
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
