// A certified provider of identities for the end-to-end tests: npm `oidc-provider` with people who need no password.
//
//   node idp.mjs LIBRARY CALLBACK
//
// A line of JSON to its standard input replaces people, by name; `null` takes one away.
//
// LIBRARY is the file that the package begins with, CALLBACK where the node under test takes people back. Prints its address in one
// line when it listens, on a free port of 127.0.0.1, and ends with its standard input.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

const [library, callback] = process.argv.slice(2);
const { Provider } = await import(library);

const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;
const device = 'urn:ietf:params:oauth:grant-type:device_code';

const people = {
  ada: { name: 'Ada', groups: ['oc-field', 'oc-boss'] },
  bob: { name: 'Bob', groups: ['kitchen'] },
};

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'node',
      client_secret: 'a secret of the node: & = %',
      redirect_uris: [callback],
      response_types: ['code'],
      grant_types: ['authorization_code', 'refresh_token', device],
    },
    {
      client_id: 'nightly',
      client_secret: 'a secret of the program',
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      scope: 'node:use',
    },
  ],
  scopes: ['openid', 'profile', 'groups', 'node:use'],
  claims: { openid: ['sub'], profile: ['name'], groups: ['groups'] },
  // The groups stand in the token itself, so that the node need not ask for them.
  conformIdTokenClaims: false,
  // Of nobody it wants to hear nothing, and takes `null` for a fault of its own.
  findAccount: (_, id) =>
    people[id] ? { accountId: id, claims: () => ({ sub: id, ...people[id] }) } : undefined,
  issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
  // So short that the node asks again within a test.
  ttl: { AccessToken: 1 },
  pkce: { required: () => true },
  cookies: { keys: ['of a test'] },
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: ({ oidc }) => (oidc.client?.clientId === 'nightly' ? 'urn:node' : undefined),
      getResourceServerInfo: (_, audience) => ({
        audience,
        scope: 'node:use',
        accessTokenFormat: 'jwt',
        accessTokenTTL: 300,
      }),
    },
  },
});

server.on('request', provider.callback());
createInterface({ input: process.stdin })
  .on('line', (line) => Object.assign(people, JSON.parse(line)))
  .on('close', () => process.exit());
// Nobody reads more than the address; what the library remarks later is no reason to end.
process.stdout.on('error', () => {});
console.log(issuer);
