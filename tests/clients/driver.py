"""The Python Hugging Face client of one environment, told what to do line by line.

Reads one JSON request per line from standard input and answers with one JSON line:

    {"op": "snapshot", "repo", "revision", "cache", "endpoint", "allow"}
    {"op": "files",    "repo", "revision", "cache", "endpoint", "names", "etag_timeout"}
    {"op": "absent",   "repo", "revision", "cache", "names"}
    {"op": "scan",     "cache"}
    {"op": "transformers", "repo", "revision", "cache", "text", "parts"}
    {"op": "versions"}
    {"op": "probe",    "tree", "store"}

An answer is {"ok": ...} or {"error": {"kind", "message"}}. Files are told by their path in the
repository, with the sha256 of what a reader gets.

Whether the client is offline is decided by HF_HUB_OFFLINE when it is imported: one process each.
"""

import errno
import hashlib
import json
import os
import sys


def failure(error):
    return {"kind": type(error).__name__, "message": str(error)}


def read(path):
    try:
        with open(path, "rb") as file:
            return {"sha256": hashlib.sha256(file.read()).hexdigest()}
    except OSError as error:
        return {"error": failure(error)}


def where(request):
    return {
        "repo_id": request["repo"],
        "revision": request["revision"],
        "cache_dir": request["cache"],
    }


def versions(request):
    """Which client this is. Makes it do what it does once per process before anything else."""
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers

    build_hf_headers()
    told = {"huggingface_hub": huggingface_hub.__version__}
    try:
        from importlib.metadata import version

        told["transformers"] = version("transformers")
    except ImportError:
        pass
    return told


def probe(request):
    """Who this process is, and what it may do to a tree and to the store behind it."""
    return {
        "uid": os.getuid(),
        "read_only": bool(os.statvfs(request["tree"]).f_flag & os.ST_RDONLY),
        "tree": attempt(os.mkdir, os.path.join(request["tree"], "intruder")),
        "store": attempt(os.listdir, request["store"]),
    }


def attempt(operation, path):
    try:
        operation(path)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def snapshot(request):
    from huggingface_hub import snapshot_download

    root = snapshot_download(
        **where(request),
        endpoint=request["endpoint"],
        allow_patterns=request.get("allow"),
    )
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = read(path)
    return found


def files(request):
    from huggingface_hub import hf_hub_download

    found = {}
    for name in request["names"]:
        try:
            path = hf_hub_download(
                filename=name,
                **where(request),
                endpoint=request["endpoint"],
                etag_timeout=request.get("etag_timeout", 10),
            )
        except Exception as error:
            found[name] = {"error": failure(error)}
        else:
            found[name] = read(path)
    return found


def absent(request):
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    found = {}
    for name in request["names"]:
        place = where(request)
        told = try_to_load_from_cache(filename=name, **place)
        found[name] = told is _CACHED_NO_EXIST
    return found


def scan(request):
    from huggingface_hub import scan_cache_dir

    told = scan_cache_dir(request["cache"])
    repos = {}
    for repo in told.repos:
        repos[repo.repo_id] = {
            revision.commit_hash: {
                "refs": sorted(revision.refs),
                "files": sorted(file.file_name for file in revision.files),
                "bytes": revision.size_on_disk,
            }
            for revision in repo.revisions
        }
    return {"warnings": [str(warning) for warning in told.warnings], "repos": repos}


def transformers(request):
    import safetensors.numpy
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import cached_file

    place = {"revision": request["revision"], "cache_dir": request["cache"]}
    repo = request["repo"]

    def config():
        return AutoConfig.from_pretrained(repo, **place).to_dict()

    def generation():
        return GenerationConfig.from_pretrained(repo, **place).to_dict()

    def tokenizer():
        made = AutoTokenizer.from_pretrained(repo, **place)
        tokens = made(request["text"])["input_ids"]
        return {"tokens": tokens, "text": made.decode(tokens, skip_special_tokens=True)}

    def tensors():
        with open(cached_file(repo, "model.safetensors.index.json", **place)) as file:
            weight_map = json.load(file)["weight_map"]
        shapes = {}
        for shard in sorted(set(weight_map.values())):
            loaded = safetensors.numpy.load_file(cached_file(repo, shard, **place))
            for name, tensor in loaded.items():
                assert weight_map[name] == shard, (name, shard)
                shapes[name] = list(tensor.shape)
        assert shapes.keys() == weight_map.keys(), weight_map
        return shapes

    parts = {part.__name__: part for part in (config, generation, tokenizer, tensors)}
    return {name: parts[name]() for name in request["parts"]}


OPERATIONS = {
    operation.__name__: operation
    for operation in (versions, probe, snapshot, files, absent, scan, transformers)
}


def main():
    # Progress bars and warnings go to standard error, so must the clients' own prints.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": OPERATIONS[request["op"]](request)}
        except Exception as error:
            answer = {"error": failure(error)}
        print(json.dumps(answer, default=str), file=answers, flush=True)


main()
