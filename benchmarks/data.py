"""How fast the data step is, stage by stage: python benchmarks/data.py [-n PICTURES]

Downloads scenes from a server on this machine, then encodes them, one stage at a time. Prints
pictures/s of each stage and names the slowest. Bytes per picture and the error of 8-bit latents are
written to data.json when run with its defaults; speeds are not.
"""
import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tld import data
from tld.ingest.encode import Encode, read_shard, square_pixels, write_latents
from tld.ingest.fetch import Fetch, download_shards
from tld.ingest.tables import split_table

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from hostile import Hostile  # noqa: E402

RESULT = Path(__file__).with_suffix(".json")
STORED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="pictures")
    parser.add_argument("--threads", type=int, default=32, help="downloads at once")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    n, seconds = args.n, {}
    vae, encoder = data.load_models("shipped", "shipped", None)

    def timed(stage: str, f, *arguments):
        clock = time.perf_counter()
        result = f(*arguments)
        seconds[stage] = time.perf_counter() - clock
        return result

    with Hostile() as server, tempfile.TemporaryDirectory() as folder:
        raw, out, side = Path(folder) / "raw", Path(folder) / "out", 64
        import pandas
        captions = [server.caption(i) for i in range(n)]
        table = pandas.DataFrame({"url": [server.url("ok", i) for i in range(n)],
                                  "caption": captions})
        [part] = timed("table", split_table, table, raw, "url", "caption", None, n)
        fetch = Fetch(allow_loopback=True, encode_format="png", thread_count=args.threads)
        timed("download", download_shards, [part], raw, side, fetch, None, False)
        files = [sample["image"] for _, sample in read_shard(raw / "00000.tar")]
        pixels = timed("decode", lambda: [square_pixels(file, side) for file in files])
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        z = timed("latents", lambda: torch.cat([data.encode_image(b, vae)
                                                for b in x.split(args.batch_size)]))
        batches = iter(captions)
        timed("text", lambda: [data.encode_text(batch, encoder) for batch in iter(
            lambda: list(itertools.islice(batches, args.batch_size)), [])])
        out.mkdir()
        timed("write", write_latents, out, "00000", z, Encode())
        shards = {p.name: p.stat().st_size for p in out.iterdir()}
        bytes_each = {"pixels": side * side * 3, "shard": (raw / "00000.tar").stat().st_size // n,
                      "latents": shards["00000_latents.npy"] // n}
    assert len(files) == n
    for stage, s in seconds.items():
        print(f"{stage}: {n / s:.0f} pictures/s")
    print(f"slowest: {max(seconds, key=seconds.get)}, on {torch.get_num_threads()} threads and "
          f"{vae.device}")
    if n == STORED:
        result = {"pictures": n, "arrived": len(files), "bytes_per_picture": bytes_each,
                  "latent_rms_error": round((data.dequantize_latents(data.quantize_latents(z)) - z)
                                            .square().mean().sqrt().item(), 5)}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
