#!/usr/bin/env node
// Calls helloworld.Greeter through grpc-js for the end-to-end tests and prints one JSON object:
// {mode, ok, replies, served_by, headers, trailers, code, details, elapsed_ms}. Exits 1 when the call failed.
'use strict';

const path = require('node:path');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '..', '..', '..', 'greeter', 'helloworld.proto');
const METHODS = {
  unary: 'SayHello', stream: 'SayHelloStream', collect: 'CollectHellos', chat: 'ChatHello',
};

const { values: options } = parseArgs({
  options: {
    target: { type: 'string', default: '127.0.0.1:50051' },
    mode: { type: 'string', default: 'unary' },
    name: { type: 'string', default: 'jsclient' },
    messages: { type: 'string', default: '3' }, // sent per call by collect and chat
    replies: { type: 'string', default: '0' }, // asked for per request of stream; 0 leaves it to the server
    interval: { type: 'string', default: '0' }, // milliseconds asked for before each reply; 0 as the server has it
    deadline: { type: 'string', default: '10000' }, // milliseconds
    'cancel-after': { type: 'string' }, // milliseconds; the client cancels the call then
    metadata: { type: 'string', multiple: true, default: [] }, // KEY=VALUE; base64 for a key that ends in -bin
    gzip: { type: 'boolean', default: false },
    proto: { type: 'string', default: PROTO },
  },
});

function usage(message) {
  process.stderr.write(`jsclient: ${message}\n`);
  process.exit(64);
}

if (!(options.mode in METHODS)) usage(`unknown --mode ${options.mode}`);

function metadata() {
  const result = new grpc.Metadata();
  for (const pair of options.metadata) {
    const at = pair.indexOf('=');
    if (at < 1) usage(`--metadata is KEY=VALUE, not ${pair}`);
    const key = pair.slice(0, at);
    const value = pair.slice(at + 1);
    result.add(key, key.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return result;
}

// Metadata as JSON: each key with its list of values, binary ones in base64.
function plain(headers) {
  const result = {};
  for (const key of Object.keys(headers.toJSON())) {
    result[key] = headers.get(key).map((value) => (Buffer.isBuffer(value) ? value.toString('base64') : value));
  }
  return result;
}

const definition = loader.loadSync(options.proto, { keepCase: true });
const Greeter = grpc.loadPackageDefinition(definition).helloworld.Greeter;
const channelOptions = options.gzip
  ? { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip } : {};
const client = new Greeter(options.target, grpc.credentials.createInsecure(), channelOptions);

const report = {
  mode: options.mode, ok: false, replies: [], served_by: null, headers: {}, trailers: {}, code: null, details: '',
};
const started = process.hrtime.bigint();
let ended = false;

function finish(status) {
  if (ended) return;
  ended = true;
  report.ok = status.code === grpc.status.OK;
  report.code = grpc.status[status.code];
  report.details = status.details;
  report.trailers = plain(status.metadata);
  report.elapsed_ms = Number(process.hrtime.bigint() - started) / 1e6;
  process.stdout.write(`${JSON.stringify(report)}\n`);
  process.exitCode = report.ok ? 0 : 1;
  client.close();
}

const request = {
  name: options.name, count: Number(options.replies), interval_ms: Number(options.interval),
};
const method = client[METHODS[options.mode]].bind(client);
const callOptions = { deadline: Date.now() + Number(options.deadline) };
const messages = Number(options.messages);
const sends = options.mode === 'collect' || options.mode === 'chat';
const replies = options.mode === 'stream' || options.mode === 'chat';

let call;
// The outcome is taken from 'status', which every call kind emits exactly once; the callback and 'error' repeat it.
const onReply = (error, reply) => { if (!error) report.replies.push(reply.message); };
if (replies) {
  call = sends ? method(metadata(), callOptions) : method(request, metadata(), callOptions);
  call.on('data', (reply) => report.replies.push(reply.message));
  call.on('error', () => {});
} else {
  call = sends ? method(metadata(), callOptions, onReply)
    : method(request, metadata(), callOptions, onReply);
}
call.on('metadata', (headers) => {
  report.headers = plain(headers);
  report.served_by = headers.get('x-served-by')[0] ?? null;
});
// Behind the callback of a unary reply, which grpc-js runs in the same turn as 'status'.
call.on('status', (status) => setImmediate(finish, status));
if (sends) {
  for (let i = 0; i < messages; i += 1) call.write(request);
  call.end();
}
if (options['cancel-after'] !== undefined) setTimeout(() => call.cancel(), Number(options['cancel-after']));
