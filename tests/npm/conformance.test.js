// OpenAI's JavaScript client against `colm serve --pair demo`: every field, errors, clients that leave.
// tests/python/test_npm_client.py starts the server, and tells what must come in the file that COLM_TOLD names.
// One process runs all cases in this order, since the last one ends the server.

import "./chat.js";
import "./completions.js";
import "./responses.js";
import "./others.js";
import "./leaving.js";
