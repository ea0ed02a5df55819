import createClient from "openapi-fetch";
import type { components, paths } from "./api.ts";
import { readFileSync } from "node:fs";

const client = createClient<paths>({ baseUrl: process.argv[2]! });
const image = readFileSync(process.argv[3]!).toString("base64");
const bytes = { parseAs: "arrayBuffer" } as const;

function check(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

const { data: models } = await client.GET("/models");
const name: string = models!.default;
const { data: card } = await client.GET("/models/{name}", { params: { path: { name } } });
check(card!.model.z1_dim > 0, "card");

const png = await client.POST("/sample", { params: { query: { pseudo_input: 1, seed: 7 } }, ...bytes });
check(new Uint8Array(png.data! as ArrayBuffer)[1] === 0x50, "png");
const npy = await client.POST("/sample", { params: { query: { n: 2, format: "npy" } }, ...bytes });
check(new Uint8Array(npy.data! as ArrayBuffer)[1] === 0x4e, "npy");
const json = await client.POST("/sample", { params: { query: { n: 2, seed: 7, format: "json" } } });
const images = json.data as components["schemas"]["ImagesAnswer"];
check(images.shape[0] === 2 && images.seed === 7, "json");

for (const path of ["/loglik", "/novelty", "/encode"] as const) {
  const { data, error } = await client.POST(path, { body: { images: [image] } });
  check(error === undefined && typeof data !== "string" && data!.results.length === 1, path);
}
const scored = await client.POST("/loglik", {
  params: { query: { num_samples: 20 } },
  body: { images: [image, image] },
});
const scores = scored.data as components["schemas"]["LogLikelihoodAnswer"];
const score: number = scores.results[1]!.log_likelihood;
check(score < 0, "score");
for (const path of ["/reconstruct", "/novelty/heatmap"] as const) {
  const { data } = await client.POST(path, { body: { images: [image] }, ...bytes });
  check((data as ArrayBuffer).byteLength > 0, path);
}
const form = await client.POST("/encode", {
  body: { file: [new Blob([readFileSync(process.argv[3]!)]) as unknown as string] },
  bodySerializer: (body) => {
    const data = new FormData();
    for (const file of (body as { file: string[] }).file) data.append("file", file as unknown as Blob, "digit.png");
    return data;
  },
});
check(form.data!.results[0]!.file === "digit.png", "form");

const { data: page } = await client.GET("/pseudo-inputs", { params: { query: { limit: 2, format: "json" } } });
check((page as components["schemas"]["PseudoInputList"]).total > 2, "gallery");
const wrong = await client.POST("/sample", { params: { query: { pseudo_input: 100000 } } });
check(wrong.error!.type === "/problems/pseudo-input-not-found", "problem");
check((await client.GET("/health/ready")).data!.status === "ready", "ready");
console.log("done", score);
