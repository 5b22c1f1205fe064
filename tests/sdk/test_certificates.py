"""What `cert issue` makes, in the hands of other people's TLS: curl, openssl, Python, Node, Go and Java.

What is not on this machine is skipped, and says so."""

import pathlib
import shlex
import shutil
import subprocess

import pytest

from world import Certificate, poll

CLIENTS = pathlib.Path(__file__).parent / "clients"
PASSWORD = "p12-secret"


def need(command):
    found = shutil.which(command)
    version = "version" if command == "go" else "--version"
    # Managers of versions leave commands in the path that do nothing but complain.
    if not found or subprocess.run([found, version], capture_output=True, timeout=60).returncode:
        pytest.skip(f"there is no {command}")
    return found


def run(*command, timeout=60, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options)


class Issued:
    """A caller's files, PKCS#12 among them, made by the line that `cert issue` prints."""

    def __init__(self, world, name):
        self.world, self.name, self.directory = world, name, world.directory / "interop"
        said = world.cli("cert", "issue", name, "--format", "p12", "--out", str(self.directory))
        line = next(line for line in said.splitlines() if line.startswith("openssl pkcs12 "))
        made = run(*shlex.split(line), "-passout", f"pass:{PASSWORD}", cwd=world.directory)
        assert made.returncode == 0, made.stderr
        self.certificate = Certificate(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        self.p12 = self.directory / f"{name}.p12"
        self.ca = self.directory / "ca.crt"
        self.url = world.url + "/v1/models"


@pytest.fixture(scope="module")
def issued(world):
    return Issued(world, "app-interop")


# Each gives a function that asks as the caller, or as nobody, and returns "STATUS VERSION-OF-TLS".


def asking(*command):
    def ask(issued, known=True, pair=lambda one: (one.certificate.chain, one.certificate.key)):
        done = run(*command, issued.url, issued.ca, *(pair(issued) if known else ()))
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
        return done.stdout.strip()

    return ask


def curl(issued, known=True, options=()):
    own = options or ("--cert", issued.certificate.chain, "--key", issued.certificate.key)
    done = run(
        "curl", "-sS", "-m", 20, "-v", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", issued.ca,
        *(own if known else ()), issued.url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version = next(word for word in done.stderr.split() if word.startswith("TLSv1."))
    return f"{done.stdout} {version}"


def curl_p12(issued, known=True):
    return curl(issued, known, ("--cert-type", "P12", "--cert", f"{issued.p12}:{PASSWORD}"))


def openssl(issued, known=True):
    own = ("-cert", issued.certificate.chain, "-cert_chain", issued.certificate.chain, "-key", issued.certificate.key)
    done = run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{issued.world.port}", "-servername", "localhost", "-CAfile",
        issued.ca, "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost", "-verify_return_error",
        "-ign_eof", *(own if known else ()),
        input=f"GET /v1/models HTTP/1.1\r\nHost: localhost:{issued.world.port}\r\nConnection: close\r\n\r\n",
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout + done.stderr
    status = next(line for line in done.stdout.splitlines() if line.startswith("HTTP/1.1 ")).split()[1]
    return f"{status} " + next(word.rstrip(",") for word in done.stdout.split() if word.startswith("TLSv1."))


def python(command):
    return lambda directory: asking(need(command), CLIENTS / "ask.py")


def go(directory):
    done = run(need("go"), "build", "-o", directory / "ask", CLIENTS / "ask.go", timeout=300)
    assert done.returncode == 0, done.stderr
    return asking(directory / "ask")


def java(directory):
    done = run(need("javac"), "-d", directory, CLIENTS / "Ask.java", timeout=300)
    assert done.returncode == 0, done.stderr
    ask = asking(need("java"), "-cp", directory, "Ask")
    return lambda issued, known=True: ask(issued, known, lambda one: (one.p12, PASSWORD))


MAKERS = {
    "curl": lambda _: curl,
    "curl, PKCS#12": lambda _: curl_p12,
    "openssl": lambda _: openssl,
    "python3": python("python3"),
    "python3.13": python("python3.13"),
    "node": lambda _: asking(need("node"), CLIENTS / "ask.mjs"),
    "go": go,
    "java, PKCS#12": java,
}


@pytest.fixture(scope="module", params=MAKERS)
def client(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp("client"))


def test_is_served_by_certificate_and_only_by_it(issued, client):
    poll(3, "the certificate is in force", lambda: client(issued).startswith("200 "))
    assert client(issued) == "200 TLSv1.3"
    assert client(issued, known=False) == "401 TLSv1.3"


def test_is_refused_within_a_second_after_a_revocation(world, client, request):
    name = "app-revoked-" + "".join(c for c in request.node.callspec.params["client"].lower() if c.isalnum())
    issued = Issued(world, name)
    poll(3, "the certificate is in force", lambda: client(issued).startswith("200 "))
    world.cli("cert", "revoke", "--name", name)
    poll(1, "it is refused", lambda: client(issued) == "401 TLSv1.3", 0.1)


def test_the_p12_holds_the_key_and_the_whole_chain(issued):
    listed = run("openssl", "pkcs12", "-in", issued.p12, "-passin", f"pass:{PASSWORD}", "-info", "-nodes")
    assert listed.returncode == 0, listed.stderr
    # Leaf, issuer and root, and one key; nothing older than PBES2 with AES.
    assert listed.stdout.count("BEGIN CERTIFICATE") == 3
    assert listed.stdout.count("BEGIN PRIVATE KEY") == 1
    assert "PBES2, PBKDF2, AES-256-CBC" in listed.stderr
    assert "RC2" not in listed.stderr and "3DES" not in listed.stderr.upper()
    wrong = run("openssl", "pkcs12", "-in", issued.p12, "-passin", "pass:other", "-noout")
    assert wrong.returncode != 0


def test_the_leaf_holds_under_strict_rules_with_the_list_of_what_is_revoked(world, issued):
    """Every CRL check that openssl has, of the leaf; then the same when it is on the list."""
    crl = issued.directory / "crl.pem"

    def verify():
        world.cli("ca", "crl", "--out", str(crl))
        return run(
            "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check", "-CRLfile", crl,
            "-CAfile", issued.ca, "-untrusted", spare.certificate.chain, spare.certificate.chain,
        )  # fmt: skip

    spare = Issued(world, "app-listed")
    good = verify()
    assert good.returncode == 0, good.stdout + good.stderr
    world.cli("cert", "revoke", "--name", spare.name, "--reason", "superseded")
    bad = verify()
    assert bad.returncode != 0 and "certificate revoked" in bad.stdout + bad.stderr
