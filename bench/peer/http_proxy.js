// node http_proxy.js PORT ARCHIVE_PORT ORIGIN
'use strict';

const http = require('http');
const [port, archive, origin] = process.argv.slice(2);
const proxy = require('http-proxy').createProxyServer({
  target: `http://127.0.0.1:${archive}`,
  // Without an agent every request would open a connection of its own.
  agent: new http.Agent({ keepAlive: true, maxSockets: 100, maxFreeSockets: 100 }),
  xfwd: true,
});

proxy.on('proxyRes', (answer, request) => {
  const { headers } = answer;
  for (const name of Object.keys(headers)) {
    if (name.startsWith('access-control-')) delete headers[name];
  }
  headers.vary = headers.vary ? `${headers.vary}, Origin` : 'Origin';
  if (request.headers.origin === origin) {
    headers['access-control-allow-origin'] = origin;
    headers['access-control-expose-headers'] =
      'content-length, content-range, etag, link, location';
  }
});
proxy.on('error', (error, request, answer) => {
  if (answer.headersSent) answer.destroy();
  else answer.writeHead(502).end();
});

const preflight = {
  'Access-Control-Allow-Origin': origin,
  'Access-Control-Allow-Methods': 'GET, HEAD, POST',
  'Access-Control-Allow-Headers': 'accept, authorization, content-type, range',
  'Access-Control-Max-Age': '7200',
  Vary: 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers',
};
http.createServer((request, answer) => {
  const { headers } = request;
  if (request.method === 'OPTIONS' && headers.origin === origin &&
      headers['access-control-request-method']) {
    answer.writeHead(204, preflight).end();
  } else {
    proxy.web(request, answer);
  }
}).listen(Number(port), '127.0.0.1', 1024);
