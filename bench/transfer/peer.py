"""What the peer does: 8 KiB pieces through requests (urllib where it is missing) and hashlib."""

import hashlib
import os
import sys

url, digest, path = sys.argv[1:4]
sha = hashlib.sha256()
with open(path + ".tmp", "wb") as out:
    try:
        import requests

        with requests.get(url, stream=True, timeout=30, verify=os.environ.get("BENCH_CA", True)) as response:
            response.raise_for_status()
            for chunk in response.iter_content(chunk_size=8192):
                out.write(chunk)
                sha.update(chunk)
    except ImportError:
        import ssl
        import urllib.request

        context = ssl.create_default_context(cafile=os.environ.get("BENCH_CA"))
        with urllib.request.urlopen(url, timeout=30, context=context) as response:
            while chunk := response.read(8192):
                out.write(chunk)
                sha.update(chunk)
if sha.hexdigest() != digest:
    sys.exit("wrong digest")
os.replace(path + ".tmp", path)
