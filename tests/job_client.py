"""Run a script of the project in the job server (job_server.py), and any other Python command in Python itself.

python job_client.py SOCKET [ARGUMENTS OF PYTHON]
"""

import json
import os
import socket
import sys

address, *arguments = sys.argv[1:]
if not (arguments and "/workflow/scripts/" in arguments[0]):
    os.execv(sys.executable, [sys.executable, *arguments])
request = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    socket.send_fds(connection, [b"\n"], [0, 1, 2])
    connection.sendall(f"{json.dumps(request)}\n".encode())
    code = int(connection.makefile().readline())
# A negative code is a signal. A shell reports it as 128 + its number.
sys.exit(code if code >= 0 else 128 - code)
