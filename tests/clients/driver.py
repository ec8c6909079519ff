"""The Python Hugging Face client of one environment, told what to do line by line.

Reads one JSON request per line from standard input and answers with one JSON line:

    {"op": "snapshot", "repo", "revision", "cache", "endpoint", "allow"}
    {"op": "files",    "repo", "revision", "cache", "endpoint", "names", "etag_timeout"}
    {"op": "absent",   "repo", "revision", "cache", "names"}
    {"op": "scan",     "cache"}
    {"op": "transformers", "repo", "revision", "cache", "text"}
    {"op": "versions"}

An answer is {"ok": ...} or {"error": {"kind", "message"}}, and always has "seconds". Files are
told by their path in the repository, with the sha256 of what a reader gets.

Whether the client is offline is decided by HF_HUB_OFFLINE when it is imported: one process each.
"""

import hashlib
import json
import os
import sys
import time


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
    import huggingface_hub

    return {"huggingface_hub": huggingface_hub.__version__}


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
    config = AutoConfig.from_pretrained(repo, **place)
    generation = GenerationConfig.from_pretrained(repo, **place)
    tokenizer = AutoTokenizer.from_pretrained(repo, **place)
    tokens = tokenizer(request["text"])["input_ids"]
    index_path = cached_file(repo, "model.safetensors.index.json", **place)
    with open(index_path) as file:
        weight_map = json.load(file)["weight_map"]
    tensors = {}
    for shard in sorted(set(weight_map.values())):
        loaded = safetensors.numpy.load_file(cached_file(repo, shard, **place))
        for name, tensor in loaded.items():
            assert weight_map[name] == shard, (name, shard)
            tensors[name] = list(tensor.shape)
    assert tensors.keys() == weight_map.keys()
    return {
        "config": config.to_dict(),
        "generation": generation.to_dict(),
        "tokens": tokens,
        "decoded": tokenizer.decode(tokens, skip_special_tokens=True),
        "tensors": tensors,
    }


OPERATIONS = {
    operation.__name__: operation
    for operation in (versions, snapshot, files, absent, scan, transformers)
}


def main():
    # Progress bars and warnings go to standard error, so must the clients' own prints.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        try:
            answer = {"ok": OPERATIONS[request["op"]](request)}
        except Exception as error:
            answer = {"error": failure(error)}
        answer["seconds"] = time.monotonic() - started
        print(json.dumps(answer, default=str), file=answers, flush=True)


main()
