#!/usr/bin/env node
// The installed command: there before the build, so that package managers can link it.
import "../dist/main.js";
