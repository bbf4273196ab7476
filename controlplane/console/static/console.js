// Replaces the panels of an open page when the server has others. Everything shown was rendered, and escaped, there.
"use strict";

(() => {
  const panels = document.getElementById("panels");
  const stale = document.getElementById("stale");
  const paused = document.getElementById("paused");
  const patience = 5;
  let etag = "";
  let failures = 0;

  const isInUse = () =>
    document.hidden || panels.contains(document.activeElement) || panels.querySelector("details[open]") !== null;

  const refresh = async () => {
    const reply = await fetch(panels.dataset.source, {
      cache: "no-store",
      headers: etag ? { "if-none-match": etag } : {},
    });
    if (reply.status === 304) return;
    if (!reply.ok) throw new Error(String(reply.status));
    const text = await reply.text();
    if (isInUse()) return;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    panels.replaceChildren(...fresh.body.childNodes);
    etag = reply.headers.get("etag") ?? "";
  };

  const tick = async () => {
    try {
      paused.hidden = !isInUse();
      if (paused.hidden) await refresh();
      failures = 0;
    } catch {
      failures += 1;
    }
    stale.hidden = failures < patience;
    if (!stale.hidden) paused.hidden = true;
    if (failures < patience) setTimeout(tick, Number(panels.dataset.everyMs));
  };

  setTimeout(tick, Number(panels.dataset.everyMs));
})();
