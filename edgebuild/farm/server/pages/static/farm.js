// Keeps a page as fresh as the farm: what changed is changed in place, so that focus, scrolling, open details and what
// somebody types stay. Without this script the page is the same, and is reloaded by hand.
"use strict";
(() => {
  const EVERY_MS = 5000;
  // Theirs is what a reader did, not what the server says.
  const KEPT = new Set(["open", "tabindex"]);

  const alike = (one, other) =>
    one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");

  function renew(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.hasAttribute("data-keep") || old.isEqualNode(fresh)) return;
    for (const { name, value } of fresh.attributes) {
      if (!KEPT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!KEPT.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    renewChildren(old, fresh);
  }

  function renewChildren(old, fresh) {
    const named = new Map();
    const stays = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
    for (const child of [...old.children]) {
      if (child.id && stays.has(child.id)) named.set(child.id, child);
      else if (child.id) child.remove();
    }
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const match = (next.id && named.get(next.id)) || at;
      if (match && alike(match, next)) {
        if (match === at) at = at.nextSibling;
        else old.insertBefore(match, at);
        renew(match, next);
      } else {
        old.insertBefore(next, at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function toEnd(log) {
    if (log) log.scrollTop = log.scrollHeight;
  }

  const atEnd = (log) => !log || log.scrollHeight - log.scrollTop - log.clientHeight < 40;

  toEnd(document.getElementById("log"));
  if (!document.body.hasAttribute("data-live")) return;

  const button = document.getElementById("live");
  const said = document.getElementById("live-said");
  const news = document.getElementById("news");
  let paused = false;
  let state = "Live";
  button.hidden = false;

  function say(now, aloud) {
    if (now === state) return;
    state = now;
    said.textContent = now;
    button.dataset.state = now === "Live" ? "live" : now === "Paused" ? "paused" : "lost";
    if (aloud) news.textContent = aloud;
  }

  function show(fresh) {
    const log = document.getElementById("log");
    const followed = atEnd(log);
    const held = document.activeElement;
    const main = document.getElementById("content");
    renew(main, fresh.getElementById("content"));
    if (document.title !== fresh.title) document.title = fresh.title;
    if (held !== document.activeElement && held && held.isConnected) held.focus({ preventScroll: true });
    if (followed) toEnd(document.getElementById("log"));
  }

  async function refresh() {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
      if (answer.redirected) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (paused) return;
      show(fresh);
      say("Live", "The page is live again.");
    } catch {
      say("No answer", "The farm doesn't answer. The page shows how things were.");
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(!paused));
    say(paused ? "Paused" : "Live");
    if (!paused) refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  const again = () => refresh().finally(() => setTimeout(again, EVERY_MS));
  setTimeout(again, EVERY_MS);
})();
