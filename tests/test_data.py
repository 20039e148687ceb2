"The data step against a hostile server, killed, in two processes, and watched for memory."
import csv
import io
import json
import multiprocessing
import os
import pickle
import resource
import socket
import subprocess
import sys
import tarfile
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from hostile import FORMS, Hostile, free_port
from tld import data
from tld.configs import DataDownloadConfig
from tld.ingest import encode, tables
from tld.ingest.addresses import guarded_opener, public_addresses
from tld.ingest.encode import Encode, encode_shard, read_ledger
from tld.ingest.fetch import Fetch, Filters, ShardDownloader, failure_kind, row_kind
from tld.ingest.tables import read_table
from tld.latents import LatentShards

pq = pytest.importorskip("pyarrow.parquet", reason="pip install tld[data]")
pytest.importorskip("img2dataset", reason="pip install tld[data]")

SIDE = 64
# Few threads and a long time-out: on a busy machine nothing but what never answers may time out.
FETCH = Fetch(allow_loopback=True, encode_format="png", timeout=5, retries=1, thread_count=8)
# What happens to an address -> the kind it is counted as, if it does not arrive.
FAULTS = {
    "404": "http_404", "500": "http_500", "slow": "timeout", "loop": "redirect_loop",
    "truncated": "truncated", "short": "truncated", "html": "not_a_picture", "empty": "empty",
    "dot": "small", "line": "aspect", "bomb": "too_large", "to-private": "refused",
    "to-file": "refused", "robots": "robots",
}
ARRIVE = [*FORMS, "500-once", "moved"]
NO_SERVER = {"file:///etc/hostname": "refused", "http://10.1.2.3/a.png": "refused",
             "http://169.254.169.254/latest": "refused", "ftp://example.org/a.png": "refused",
             "nothing": "bad_url", "http://[::1/a.png": "bad_url", "": "no_url"}


def hostile_rows(server: Hostile, n: int) -> tuple[list[tuple[str, str]], Counter]:
    "A table in which every fault occurs in a known number, and the ledger it must give."
    rows, wanted = [], Counter()
    def add(url, caption, kind, times=1):
        rows.extend([(url, caption)] * times)
        wanted[kind] += times
    for i, (what, kind) in enumerate(FAULTS.items()):
        for k in range(2 + i % 3):
            add(server.url(what, 1000 * (i + 1) + k), "a fault", kind)
    for url, kind in NO_SERVER.items():
        add(url, "an address", kind)
    add(f"http://127.0.0.1:{free_port()}/a.png", "nobody answers", "unreachable")
    for i, caption in enumerate(("", " ", "\t")):
        add(server.url("ok", 100_000 + i), caption, "no_caption")
    add(server.url("same", 1), "the same file", "encoded")
    add(server.url("same", 2), "the same file again", "duplicate", 3)
    others = "кошка слева от торта", "猫とケーキ", "🐱 + 🎂", "NA", 'a "b", c\nd'
    for i, caption in enumerate(others):
        add(server.url("ok", 200_000 + i), caption, "encoded")
    for i in range(2):
        add(server.url("ok", 300_000 + i), "a very " + "very " * 90 + "long caption", "encoded")
    i, drawn = 0, set()
    while len(rows) < n:
        i += 1
        if (image := server.image(i).tobytes()) in drawn:  # of thousands of scenes, two are alike
            continue
        drawn.add(image)
        what = ARRIVE[i // 4 % len(ARRIVE)] if i % 4 == 0 else "ok"
        add(server.url(what, i), server.caption(i), "encoded")
    np.random.default_rng(0).shuffle(rows)
    rows.sort(key=lambda row: "/slow/" not in row[0])  # wait for them together
    return [tuple(row) for row in rows], wanted


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("url", "caption"), *rows])
    return path


@pytest.fixture(scope="module")
def server():
    with Hostile() as server:
        yield server


@pytest.fixture(scope="module")
def models():
    return data.load_models("shipped", "shipped", "cpu")


class Run:
    "A finished run over a hostile table, and what it did on the network."
    def __init__(self, folder: Path, server: Hostile, models, n: int):
        self.latents, self.raw = folder / "latents", folder / "raw"
        self.rows, self.wanted = hostile_rows(server, n)
        self.connected, connect = [], socket.socket.connect
        def watched(sock, address):
            self.connected.append(address)
            return connect(sock, address)
        socket.socket.connect = watched
        start, seen = time.perf_counter(), Counter(server.seen)
        try:
            self.config = data.download_and_process_data(
                self.latents, self.raw, write_csv(folder / "table.csv", self.rows), SIDE,
                number_sample_per_shard=-(-n // 4), vae=models[0], text_encoder=models[1],
                fetch=FETCH, filters=Filters(drop_duplicates=True), progress=False)
        finally:
            socket.socket.connect = connect
        self.seconds, self.seen = time.perf_counter() - start, server.seen - seen
        tables = [pq.read_table(p) for p in sorted(self.latents.glob("*_meta.parquet"))]
        self.meta = [row for table in tables for row in table.to_pylist()]

    def pixels(self) -> dict[str, np.ndarray]:
        "The pictures kept, by the key of their row."
        found = {}
        for path in sorted(self.raw.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    if member.name.endswith(".png"):
                        image = Image.open(io.BytesIO(tar.extractfile(member).read()))
                        found[member.name[:-4]] = np.asarray(image.convert("RGB"))
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory, server, models):
    return Run(tmp_path_factory.mktemp("run"), server, models, 400)


def check_ledger(run: Run):
    ledger = read_ledger(run.latents)
    assert {"encoded": ledger["encoded"], **ledger["failed"]} == run.wanted
    assert ledger["rows"] == len(run.rows) == ledger["encoded"] + sum(ledger["failed"].values())
    assert ledger["captions_cut"] == 2
    assert json.loads((run.latents / "ledger.json").read_text()) == ledger
    for (url, caption), row in zip(run.rows, run.meta):  # in the order of the table
        assert (row["url"] or "", row["caption"] or "") == (url, caption)


def test_the_ledger_equals_the_injected_counts(run):
    check_ledger(run)


@pytest.mark.slow
def test_the_ledger_of_thousands(tmp_path, server, models):
    run = Run(tmp_path, server, models, 3000)
    check_ledger(run)
    print(json.dumps(read_ledger(run.latents)), f"{len(run.rows) / run.seconds:.0f} rows/s")


def expected(server: Hostile, url: str) -> np.ndarray:
    "What must arrive, from the picture that the server has; not through the code under test."
    what, number = url.split("/")[-2:]
    image = server.image(0 if what == "same" else int(number))
    pixels = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    if what in ("grey", "deep"):
        return np.stack([grey] * 3, -1)
    if what == "rgba":
        pixels = pixels.copy()
        pixels[:, :SIDE // 2] = 255
    return pixels


def test_pixels_arrive_right(run, server):
    pixels, checked = run.pixels(), Counter()
    for row in run.meta:
        if row["status"] != "encoded":
            continue
        what, found = row["url"].split("/")[-2], pixels[row["key"]]
        wanted = expected(server, row["url"])
        checked[what] += 1
        if what in ("jpeg", "cmyk", "gif"):  # lossy; wrong channels are 50 and more
            assert np.abs(found.astype(int) - wanted).mean() < 12, what
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=what)
    assert {*ARRIVE, "same"} <= set(checked)


def test_latents_and_texts_are_those_of_their_rows(run, models):
    shards = LatentShards(run.config.latent_path, run.config.text_emb_path)
    pixels = run.pixels()
    rows = [row for row in run.meta if row["status"] == "encoded"]
    assert len(shards) == len(rows)
    some = np.arange(0, len(rows), 7)
    z, text, *_ = shards.batch(some)
    x = torch.from_numpy(np.stack([pixels[rows[i]["key"]] for i in some])).permute(0, 3, 1, 2)
    exact = data.encode_image(x.float() / 255, models[0])
    step = 2 * 6 / 255
    assert (z - exact.clamp(-6, 6)).abs().max() <= step / 2 + 1e-3
    torch.testing.assert_close(
        text, data.encode_text([rows[i]["caption"] for i in some], models[1]), rtol=2e-3, atol=2e-3)
    val = np.load(run.config.val_path)
    torch.testing.assert_close(torch.from_numpy(val[:1]).float(), shards.batch(np.arange(1)).text)
    assert val.shape == (16, models[1].emb_size)


def test_nothing_private_is_called_and_failures_are_tried_again(run):
    assert {address[0] for address in run.connected} == {"127.0.0.1"}
    for path, count in run.seen.items():
        what = path.split("/")[1]
        if what in ("404", "500", "slow"):
            assert count == FETCH.retries + 1, path
        if what == "500-once":
            assert count >= 2, path
    assert not [path for path in run.seen if path.startswith("/ok/10000")]  # no caption


def test_no_leftovers(run):
    for folder in (run.latents, run.raw):
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]


# ---- addresses ----

def opener(fetch: Fetch):
    return guarded_opener(fetch.max_bytes, fetch.max_seconds, fetch.allow_loopback)


PRIVATE = ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
           "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
           "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_of_a_private_address_is_refused_unconnected(monkeypatch, address):
    def look_up(host, port, **_):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a connection was begun"))
    for scheme in ("http", "https"):
        with pytest.raises(Exception, match="refused: innocent.example is at") as error:
            opener(Fetch()).open(f"{scheme}://innocent.example/a.png", timeout=1)
        assert failure_kind(str(error.value)) == "refused"


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
def test_disguises_of_this_machine_are_refused(host, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a connection was begun"))
    with pytest.raises(Exception, match="refused|Name or service|nodename|not known"):
        opener(Fetch()).open(f"http://{host}:9/", timeout=1)


def test_one_public_address_among_private_ones_does_not_help(monkeypatch):
    both = [(socket.AF_INET, 1, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(PermissionError, match="10.0.0.1"):
        public_addresses("a.example", 80)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[:1])
    assert public_addresses("a.example", 80) == both[:1]


def test_the_name_is_looked_up_once(monkeypatch, server):
    "Between a check and the connection a second look-up could give another address."
    look_ups, real = [], socket.getaddrinfo
    def look_up(host, port, **options):
        look_ups.append(host)
        return real("127.0.0.1", port, **options)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = server.url("ok", 1).replace("127.0.0.1", "pictures.example")
    with opener(FETCH).open(url, timeout=5) as answer:
        assert answer.read().startswith(b"\x89PNG")
    assert look_ups == ["pictures.example"]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a", "data:,a"])
def test_other_schemes_are_not_opened(url):
    with pytest.raises(Exception, match="unknown url type"):
        opener(FETCH).open(url, timeout=1)
    assert row_kind(url, "a caption", Filters()) == "refused"


def test_bodies_are_bounded(server):
    for limit, match in ((dict(max_bytes=100), "too_large"), (dict(max_seconds=-1), "timed out")):
        fetch = Fetch(allow_loopback=True, **limit)
        with pytest.raises((ValueError, TimeoutError), match=match):
            opener(fetch).open(server.url("ok", 1), timeout=5).read()


# ---- killed, and in several processes ----

CONTEXT = multiprocessing.get_context("forkserver")  # a clean process that has all imported
CONTEXT.set_forkserver_preload(["tld.data", "img2dataset.downloader", "img2dataset.resizer",
                                "img2dataset.writer", "img2dataset.distributor"])
QUICK = dict(image_size=SIDE, bs=8, number_sample_per_shard=12, fetch=FETCH, progress=False)


def job(folder: Path, table: Path, environment: dict[str, str]):
    os.environ.update(environment)
    torch.set_num_threads(1)
    data.download_and_process_data(folder / "latents", folder / "raw", table, **QUICK)


def start(folder: Path, table: Path, **environment: str):
    process = CONTEXT.Process(target=job, args=(folder, table, environment), daemon=True)
    process.start()
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory, server):
    "A small table, and the folder of an uninterrupted run over it."
    folder = tmp_path_factory.mktemp("small")
    whats = ["ok", "404", "ok", "html", "jpeg", "ok"]
    rows = [(server.url(whats[i % 6], 400_000 + i), server.caption(i)) for i in range(60)]
    table = write_csv(folder / "table.csv", rows)
    process = start(folder / "whole", table)
    process.join(300)
    assert process.exitcode == 0
    return table, folder / "whole"


def test_killed_at_any_point_it_continues_to_the_same_bytes(small, tmp_path):
    table, whole = small
    # Kill while the second shard downloads, then while the second is encoded, then let it finish.
    for pattern in ("raw/00000.parquet", "latents/00000_meta.parquet", None):
        process = start(tmp_path, table)
        while pattern and process.is_alive() and not (tmp_path / pattern).exists():
            time.sleep(0.002)
        if pattern:
            process.kill()
        process.join(300)
        assert process.exitcode == (-9 if pattern else 0)
        if pattern:
            assert not (tmp_path / "latents" / "ledger.json").exists()
    assert contents(tmp_path / "latents") == contents(whole / "latents")
    assert contents(tmp_path / "raw") == contents(whole / "raw")
    assert len(contents(whole / "raw")) == 10 and len(contents(whole / "latents")) == 24
    assert not [p for p in tmp_path.rglob(".*")]


@pytest.mark.parametrize("crash", range(5))
def test_a_shard_is_there_whole_or_not_at_all(tmp_path, models, monkeypatch, crash):
    "Stop before each of the files that a shard consists of; the marker is the last of them."
    tar = scene_tar(tmp_path / "raw", 3)
    write, written = encode.write_atomically, []
    def stop(path, f):
        if len(written) == crash:
            raise KeyboardInterrupt
        written.append(path)
        write(path, f)
    args = (tar.parent, tmp_path / "out", tar.stem, *models, SIDE)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        for module in (encode, tables):
            m.setattr(module, "write_atomically", stop)
        encode_shard(*args)
        raise KeyboardInterrupt  # nothing is left to stop at
    assert (tmp_path / "out" / f"{tar.stem}_meta.parquet").exists() == (crash >= 4)
    assert encode_shard(*args) == ["encoded"] * 3
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_two_processes_split_the_shards(small, tmp_path, server):
    table, whole = small
    seen = Counter(server.seen)
    processes = [start(tmp_path, table, RANK=str(r), WORLD_SIZE="2") for r in (0, 1)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert contents(tmp_path / "latents") == contents(whole / "latents")
    again = [path for path, n in (server.seen - seen).items() if n > 1 and "/404/" not in path]
    assert not again  # no row was downloaded by both


@pytest.mark.slow
def test_accelerate_launch_and_workers(small, tmp_path):
    "The same under `accelerate launch`, each process with two workers of img2dataset's."
    table, whole = small
    script = tmp_path / "run.py"
    script.write_text(
        "from tld import data\nfrom tld.ingest.fetch import Fetch\n"
        "from dataclasses import replace\n"
        f"fetch = replace({FETCH!r}, processes_count=2)\n"
        "if __name__ == '__main__':\n"
        f"    data.download_and_process_data({str(tmp_path / 'latents')!r}, "
        f"{str(tmp_path / 'raw')!r}, {str(table)!r}, {SIDE}, 8, number_sample_per_shard=12, "
        "fetch=fetch, progress=False)\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2",
               "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "latents") == contents(whole / "latents")


def test_the_downloader_can_be_sent_to_workers():
    keep = Filters(keep=lambda row: True)  # a lambda cannot be pickled, and need not be
    there = pickle.loads(pickle.dumps(ShardDownloader(Path("raw"), SIDE, FETCH, keep)))
    assert there.fetch == FETCH and there.filters == Filters()


# ---- memory ----

def scene_tar(folder: Path, n: int, side: int = SIDE, name: str = "00000") -> Path:
    "A webdataset shard that was not downloaded here."
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for i in range(n):
            image = io.BytesIO()
            Image.new("RGB", (side, side), (i % 256, i // 256, 90)).save(image, "png")
            for kind, content in (("png", image.getvalue()), ("txt", f"colour {i}".encode())):
                info = tarfile.TarInfo(f"{i:05d}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder / f"{name}.tar"


def encode_in_shards(folder: Path, n_shards: int, connection):
    "Encode shards of 50 pictures of 256 pixels with a small autoencoder; send the peak of memory."
    from diffusers import AutoencoderKL
    torch.set_num_threads(1)
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
                        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
                        block_out_channels=(4, 4, 4, 4), norm_num_groups=4)
    for out, shards in (("warm up", 2), ("small", 2), ("large", n_shards)):
        for i in range(shards):
            scene_tar(folder / "raw", 50, 256, f"{i:05d}")
        data.download_and_process_data(folder / out, folder / "raw", image_size=256, bs=16,
                                       vae=vae, download_data=False, progress=False)
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def test_memory_stays_flat(tmp_path):
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=encode_in_shards, args=(tmp_path, 8, there), daemon=True)
    process.start()
    _, small, large = (here.recv() for _ in range(3))
    process.join()
    print(f"peak memory: {small:.0f} MB with 100 pictures, {large:.0f} MB with 400")
    # 300 pictures more would be 59 MB of bytes or 236 MB of floats; the allocator varies by 10 MB.
    assert large - small < 30


# ---- tables and configurations ----

@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "frame"])
@pytest.mark.parametrize("chunk, n", [(3, None), (4, 7), (100, None), (3, 6)])
def test_a_table_is_read_in_chunks(tmp_path, form, chunk, n):
    pandas = pytest.importorskip("pandas")
    texts = ["a", "NA", None, "null", 'a "b", c', "two\nlines", "🐱", "nan", "1", "h"]
    frame = pandas.DataFrame({"id": range(10), "text": texts, "link": [f"u{i}" for i in range(10)]})
    path = tmp_path / f"table.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif form == "parquet":
        frame.to_parquet(path)
    table = frame if form == "frame" else path
    chunks = list(read_table(table, "link", "text", n, chunk))
    rows = [row for c in chunks for row in c.to_pylist()]
    assert [row["caption"] for row in rows] == texts[:n]
    assert [row["url"] for row in rows] == [f"u{i}" for i in range(10)][:n]
    assert [row["key"] for row in rows] == [f"{i:09d}" for i in range(len(rows))]
    assert all(len(c) == chunk for c in chunks[:-1]) and 0 < len(chunks[-1]) <= chunk
    with pytest.raises(ValueError, match="no column 'caption'.*link"):
        next(read_table(table, "link"))


@pytest.mark.parametrize("changed, named", [
    (dict(image_size=32), "image_size = 64"), (dict(encode=Encode(quantize=False)), "encode"),
    (dict(filters=Filters(min_side=2)), "filters"), (dict(caption_col="url"), "caption_col"),
    (dict(number_sample_per_shard=13), "per_shard = 12")])
def test_other_settings_do_not_mix_with_what_is_there(small, changed, named):
    table, whole = small
    before = contents(whole / "latents")
    with pytest.raises(ValueError, match=f"was begun with {named}"):
        data.download_and_process_data(whole / "latents", whole / "raw", table,
                                       **{**QUICK, **changed})
    assert contents(whole / "latents") == before


def test_main_takes_a_link_and_keeps_the_table(server, tmp_path, models):
    rows = [(server.url("ok", i), server.caption(i)) for i in range(6)]
    table = write_csv(tmp_path / "there.csv", rows)
    cfg = DataDownloadConfig(
        table.as_uri(), latent_save_path=str(tmp_path / "l"), image_size=SIDE, batch_size=4,
        raw_imgs_save_path=str(tmp_path / "r"), initial_csv_path=str(tmp_path / "here.csv"))
    config = data.main(cfg, FETCH, vae=models[0], text_encoder=models[1], progress=False)
    assert (tmp_path / "here.csv").read_bytes() == table.read_bytes()
    assert len(LatentShards(config.latent_path, config.text_emb_path)) == 6


def test_use_drive(monkeypatch):
    with pytest.raises(RuntimeError, match="use_drive needs Colab"):
        data._on_drive("a")
    mounted = []
    drive = types.SimpleNamespace(mount=mounted.append)
    for name in ("google", "google.colab", "google.colab.drive"):
        monkeypatch.setitem(sys.modules, name, drive)
    assert data._on_drive("a", "b/c") == [Path("/content/drive/MyDrive") / p for p in ("a", "b/c")]
    assert mounted == ["/content/drive"]
