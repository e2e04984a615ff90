// node cors_anywhere.js PORT ARCHIVE_PORT ORIGIN
'use strict';

const { Agent } = require('http');
const [port, , origin] = process.argv.slice(2);
require('cors-anywhere').createServer({
  originWhitelist: [origin],
  corsMaxAge: 7200,
  httpProxyOptions: {
    // Without an agent every request would open a connection of its own.
    agent: new Agent({ keepAlive: true, maxSockets: 100, maxFreeSockets: 100 }),
  },
}).listen(Number(port), '127.0.0.1', 1024);
