// What a page does better with a script. Everything works without it.
"use strict";

// A form is sent once; the server holds the same line for those without a script.
document.addEventListener("submit", (event) => {
  const form = event.target;
  // Each file of a release is a button of one form, and may be taken right after another.
  if (form.method !== "post" || event.submitter?.name === "artefact") return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  // A download leaves the page where it is, so the form may be sent again after a while.
  setTimeout(() => delete form.dataset.sent, 3000);
});
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// The first mistake of a form that came back.
document.getElementById("problem")?.focus();

// A document's fingerprint is made here: the document itself never leaves this machine.
for (const fingerprint of window.crypto?.subtle ? document.querySelectorAll("#ethicsDigest, [data-fingerprint]") : []) {
  const chooser = document.createElement("input");
  chooser.type = "file";
  chooser.setAttribute("aria-label", fingerprint.labels[0].textContent.trim());
  chooser.addEventListener("change", async () => {
    const file = chooser.files[0];
    if (!file || file.size > 64 << 20) return;
    const hash = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
    fingerprint.value = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
    fingerprint.dispatchEvent(new Event("input", { bubbles: true }));
  });
  fingerprint.after(chooser);
}

// What is typed into a request is kept as a draft, a moment after the last key. One save at a time: each says which
// version it changed, so that two tabs never write over each other.
const drafting = document.querySelector("form[data-autosave]");
if (drafting) {
  const told = document.getElementById("saved");
  let waiting;
  let saving = false;
  let stopped = false;
  const save = async () => {
    if (stopped || drafting.dataset.sent) return;
    if (saving) return plan();
    saving = true;
    const answer = await fetch(drafting.dataset.autosave, {
      method: "POST",
      headers: { accept: "application/json" },
      body: new URLSearchParams(new FormData(drafting)),
    }).catch(() => null);
    const kept = await answer?.json().catch(() => null);
    saving = false;
    told.textContent = kept?.words ?? drafting.dataset.failed;
    // Somebody saved it elsewhere: this tab keeps what it has and writes nothing more.
    if (answer?.status === 412) stopped = true;
    if (!answer?.ok || !kept) return;
    drafting.elements.draft.value = kept.draft;
    drafting.elements.version.value = kept.version;
  };
  const plan = () => {
    clearTimeout(waiting);
    waiting = setTimeout(save, 1500);
  };
  drafting.addEventListener("input", plan);
}

// Policy files are read into the form here, each over the file of its name or into a new place.
const files = document.querySelector("form[data-choose]");
if (files) {
  const label = document.createElement("label");
  const chooser = document.createElement("input");
  label.textContent = files.dataset.choose;
  label.className = "field";
  chooser.type = "file";
  chooser.multiple = true;
  chooser.accept = ".yaml";
  label.append(chooser);
  chooser.addEventListener("change", async () => {
    for (const file of [...chooser.files].slice(0, 60)) {
      if (file.size > 1 << 20) continue;
      const places = [...files.querySelectorAll("fieldset.file")];
      const name = (place) => place.querySelector("[name=name]");
      const text = (place) => place.querySelector("[name=content]");
      let place = places.find((place) => name(place).value === file.name);
      place ??= places.find((place) => name(place).type === "text" && !name(place).value && !text(place).value);
      if (!place) {
        place = places.findLast((place) => name(place).type === "text").cloneNode(true);
        place.querySelectorAll("[id], [for], [aria-describedby]").forEach((element) => {
          for (const attribute of ["id", "for", "aria-describedby"]) {
            const value = element.getAttribute(attribute);
            if (value) element.setAttribute(attribute, value.replace(/-\d+/, `-${places.length}`));
          }
        });
        places.at(-1).after(place);
      }
      name(place).value = file.name;
      text(place).value = await file.text();
    }
  });
  files.querySelector("fieldset").before(label);
}

// A run is followed as it happens. The server words every line; the page is fetched anew when the run moves on.
function follow() {
  const live = document.getElementById("live");
  const path = live?.dataset.events;
  if (!path) return;
  const events = new EventSource(path);
  const say = (name, words) => {
    const place = document.querySelector(`[data-live=${name}]`);
    if (place && place.textContent !== words) place.textContent = words;
  };
  events.addEventListener("progress", (event) => {
    const progress = JSON.parse(event.data);
    const bar = document.querySelector("[data-live=bar]");
    if (!bar) return renew();
    bar.max = progress.of;
    bar.value = progress.done;
    say("progress", progress.words);
    say("figures", progress.figures);
  });
  events.addEventListener("state", (event) => say("state", JSON.parse(event.data).words));
  events.addEventListener("moved", (event) => {
    if (JSON.parse(event.data).stage !== live.dataset.stage) renew();
  });
  async function renew() {
    events.close();
    const answer = await fetch(location.pathname, { headers: { accept: "text/html" } }).catch(() => null);
    if (!answer?.ok) return setTimeout(follow, 5000);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) return;
    // Whoever is in the middle of something keeps their place: focus goes back to the same element.
    const focused = document.activeElement?.closest("[id]")?.id;
    const open = [...live.querySelectorAll("details[open]")].map((details) => details.querySelector("summary").textContent);
    live.replaceWith(document.adoptNode(fresh));
    for (const details of fresh.querySelectorAll("details")) {
      if (open.includes(details.querySelector("summary").textContent)) details.open = true;
    }
    if (focused && focused !== document.activeElement?.id) document.getElementById(focused)?.focus();
    // Not at once: what the page shows and what the events tell may differ for a moment.
    setTimeout(follow, 1000);
  }
}
follow();
