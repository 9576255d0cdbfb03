"""Signing and verifying tokens. The rest of the code only sees the result, `claims.Claims`.

There are two kinds. **Static tokens** (`static_tokens`) are `p.<payload>.<signature>` and are stored by name in the
workspace. They are valid until they are removed, and can be displayed again, because they are derived from the
workspace's secret. **JWTs** (`jwts`) contain their own scopes and expire. Both are signed but not encrypted: their
content is not secret.
"""
