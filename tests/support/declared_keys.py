"""Scripts that stop at a key that their call did not declare, as a server that checks would."""

from __future__ import annotations

from functools import cache

import pytest

from aloraserve.redis.scripts import Script, ScriptCall

_GUARD = """
local declared, without_keys, of_many = {}, {TIME = true, INFO = true}, {DEL = true, EXISTS = true, UNLINK = true}
for _, key in ipairs(KEYS) do declared[key] = true end
local function guarded(run)
  return function(name, ...)
    local command = string.upper(name)
    if not without_keys[command] then
      for i = 1, of_many[command] and select('#', ...) or 1 do
        local key = select(i, ...)
        if not declared[key] then return error('undeclared key of ' .. name .. ': ' .. tostring(key)) end
      end
    end
    return run(name, ...)
  end
end
local redis = setmetatable({call = guarded(redis.call), pcall = guarded(redis.pcall)}, {__index = redis})
"""


@cache
def guarded(script: Script) -> Script:
    """Return a script that does the same, and fails at a key that is not declared."""
    first, _, rest = script.source.partition("\n")
    if not first.startswith("#!"):
        return Script(_GUARD + script.source)
    return Script(first + _GUARD + rest)


def refuse_undeclared_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every script checked that is called from now on."""
    for name in ("by_digest", "by_source"):
        command = getattr(ScriptCall, name)
        monkeypatch.setattr(
            ScriptCall, name, lambda call, command=command: command(call._replace(script=guarded(call.script)))
        )
