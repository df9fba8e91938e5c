import type { Deps } from "../deps.ts";
import { listModels, type Model } from "../llm/models.ts";
import { asking } from "./asking.ts";

/** The models that the upstream lists. Throws `upstream_…` where it does not. */
export const modelsFor = (deps: Pick<Deps, "upstream" | "random">): Promise<Model[]> =>
  asking(deps, (patience) => listModels(deps.upstream, patience));
