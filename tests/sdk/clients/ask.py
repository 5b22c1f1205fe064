"""URL CA [CERTIFICATE KEY]: asks with Python's own ssl as it comes, and prints the status and what TLS it was."""

import http.client
import ssl
import sys
import urllib.parse

url, ca, *own = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
# As it comes from 3.13 on.
assert sys.version_info < (3, 13) or context.verify_flags & ssl.VERIFY_X509_STRICT
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
if own:
    context.load_cert_chain(*own)
parts = urllib.parse.urlsplit(url)
connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=20)
connection.request("GET", parts.path)
answer = connection.getresponse()
print(answer.status, connection.sock.version() if connection.sock else "TLSv1.3")
