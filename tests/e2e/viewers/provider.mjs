// The identity provider of the tests: a certified implementation of OpenID Connect, with a client
// for OHIF and access tokens that are JWTs. Its one argument holds the settings as JSON.
import { generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { folder, port, viewer, audience, scope } = JSON.parse(process.argv[2]);
const resolve = createRequire(pathToFileURL(`${folder}/`)).resolve;
const { default: Provider } = await import(pathToFileURL(resolve("oidc-provider")));

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "one", use: "sig", alg: "RS256" };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "ohif",
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code"],
      redirect_uris: [`${viewer}/callback`],
      post_logout_redirect_uris: [`${viewer}/`],
    },
  ],
  // Pages of the viewer ask the token endpoint themselves.
  clientBasedCORS: () => true,
  cookies: { keys: ["made up"] },
  features: {
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => `urn:${audience}`,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        audience,
        scope,
        accessTokenFormat: "jwt",
        accessTokenTTL: 3600,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  jwks: { keys: [key] },
  scopes: ["openid", scope],
});
provider.listen(port, "127.0.0.1", () => console.log("the provider is ready"));
