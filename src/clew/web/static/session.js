/** Signing in by a personal link, whose token stands in the fragment and so reaches no log. */

import { get, post, remove } from "./api.js";

/** Who is here: {pseudonym, name, role}. Throws the ApiError of /me where nobody is signed in. */
export async function signIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname); // before anything else can fail or look
    await post("/session", { token });
  }
  return await get("/me");
}

export async function signOut() {
  await remove("/session");
  location.reload();
}
