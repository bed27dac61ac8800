"""Commands that examine the parts: each prints or draws one result that can be repeated."""
