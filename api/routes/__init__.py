"""One module a resource. A route reads top to bottom: check, act, answer."""
