"""A CA for the API, other than the daemon's, and a server certificate for loopback: the second trust
anchor.
"""

import os
import subprocess

_EXTENSIONS = """\
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
"""


def make(directory):
    """Returns the paths of the CA, the certificate and its key."""
    os.makedirs(directory, exist_ok=True)
    names = ("ca.pem", "ca.key", "cert.pem", "key.pem", "cert.csr", "cert.ext")
    ca, ca_key, cert, key, request, extensions = (os.path.join(directory, f"api-{name}") for name in names)
    with open(extensions, "w", encoding="ascii") as file:
        file.write(_EXTENSIONS)
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    usage = ["-addext", "keyUsage=critical,keyCertSign"]
    _openssl(
        "req",
        "-x509",
        *new_key,
        "-days",
        "30",
        "-subj",
        "/CN=API test CA",
        *usage,
        "-keyout",
        ca_key,
        "-out",
        ca,
    )
    _openssl("req", *new_key, "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "30", "-extfile", extensions]
    _openssl("x509", "-req", "-in", request, *signing, "-out", cert)
    return ca, cert, key


def _openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
