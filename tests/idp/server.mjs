// A real OpenID provider with pretended people: whoever logs in as NAME is NAME, with any password.
// Its access tokens are JWTs for the audience "aegis". It writes its issuer to standard output as
// one line, and ends when its standard input does, so it never outlives the test that started it.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const AUDIENCE = 'aegis';
const GROUPS = { olga: ['platform-team', 'everybody'], vera: ['everybody'] };
const ACCESS_SECONDS = Number(process.env.IDP_ACCESS_SECONDS ?? 300);

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const key = { ...privateKey.export({ format: 'jwk' }), kid: 'idp-1', use: 'sig', alg: 'ES256' };

const server = createServer();
await new Promise((bound) => server.listen(0, '127.0.0.1', bound));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'aegis-cli',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
      response_types: [],
      redirect_uris: [],
      id_token_signed_response_alg: 'ES256',
    },
  ],
  cookies: { keys: ['only for tests'] },
  jwks: { keys: [key] },
  features: {
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => `urn:${AUDIENCE}`,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: '',
        audience: AUDIENCE,
        accessTokenFormat: 'jwt',
        accessTokenTTL: ACCESS_SECONDS,
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  issueRefreshToken: async () => true,
  extraTokenClaims: (_context, token) => ({ groups: GROUPS[token.accountId] ?? [] }),
  findAccount: (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
});

server.on('request', provider.callback());
process.stdin.on('end', () => process.exit(0)).resume();
console.log(issuer);
