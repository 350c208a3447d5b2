"""One writer for many: whoever holds the journal's lock serves the others through `journal/control.sock`.

    writer.py   what a verb asks of the one writer, and that writer in this process
    remote.py   the same, asked of the process that holds the lock
    web.py      HTTP and JSON under them: bodies, queries, answers, errors
    api.py      the requests that the holder answers, over HTTP
    listen.py   the sockets it listens on, and whom it lets in
"""
