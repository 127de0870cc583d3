"""The HTTP API and its hardened server."""

from relayd.system.lean import stood_in

with (
    stood_in("h2", "events"),
    stood_in("h2.events"),
    stood_in("hypercorn.protocol.h2", "H2Protocol"),
):
    import hypercorn.protocol  # noqa: F401

# What Quart has for pages, and for testing an application: a debugger and a second client too.
with (
    stood_in(
        "jinja2", "BaseLoader", "Environment", "FileSystemLoader", "Template", "TemplateNotFound"
    ),
    stood_in("hypercorn.asyncio", "serve"),
    stood_in(
        "quart.testing",
        "QuartCliRunner",
        "QuartClient",
        "TestApp",
        "make_test_body_with_headers",
        "make_test_headers_path_and_query_string",
        "make_test_scope",
        "no_op_push",
        "sentinel",
    ),
    stood_in("quart_trio.testing", "TrioClient", "TrioTestApp"),
):
    import quart_trio  # noqa: F401
