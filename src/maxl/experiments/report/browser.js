// Invented classes to look through, to name, and to save as a hierarchy for --human.
(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  // As maxl itself writes the file: a spreadsheet takes no name for a formula.
  const cell = (text) => {
    const formula = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[0-9]+(\.[0-9]+)?$/.test(text);
    const safe = formula ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const hierarchy = ({ rows, auxiliary, owner, primary_names, names }) =>
    ["row,class,finer", ...rows.map((row, i) =>
      `${row},${cell(primary_names[owner[auxiliary[i]]])},${cell(names[auxiliary[i]])}`), ""].join("\n");

  const start = (box) => {
    const data = JSON.parse(document.getElementById(box.dataset.browser).textContent);
    const counts = data.owner.map(() => 0);
    data.auxiliary.forEach((k) => { counts[k] += 1; });
    const first = data.owner.map((c, k) => data.owner.indexOf(c)); // of each class's block
    let chosen = data.samples.length ? data.samples[0].k : 0;

    const classes = make("select", {}, make("option", { value: "", textContent: "all classes" }));
    data.primary_names.forEach((name, c) => classes.append(make("option", { value: c, textContent: name })));
    const choices = make("div", { className: "choices", role: "group" });
    choices.setAttribute("aria-label", "Invented classes");
    const heading = make("h4", { tabIndex: -1 });
    const input = make("input", { type: "text", maxLength: 80, spellcheck: false });
    const told = make("p", { className: "note" });
    told.setAttribute("role", "status");
    const samples = make("div", { className: "samples" });
    const save = make("button", { type: "button", textContent: "Save as a hierarchy (CSV)" });

    const buttons = () => {
      const within = classes.value === "" ? null : Number(classes.value);
      choices.replaceChildren(...data.owner.flatMap((c, k) => {
        if (within !== null && c !== within) return [];
        const button = make("button", { type: "button", textContent: `${data.names[k]} (${counts[k]})` });
        button.disabled = counts[k] === 0;
        button.setAttribute("aria-pressed", String(k === chosen));
        button.addEventListener("click", () => { choose(k); choices.querySelector("[aria-pressed=true]")?.focus(); });
        return [button];
      }));
    };
    const show = () => {
      const mine = data.samples.filter((sample) => sample.k === chosen);
      const primary = data.primary_names[data.owner[chosen]];
      heading.textContent = `${data.names[chosen]}: ${counts[chosen]} samples of ${primary}, ${mine.length} shown`;
      input.value = data.names[chosen];
      samples.replaceChildren(...mine.map((sample) => {
        const own = chosen - first[chosen];
        const shares = make("span", { className: "shares" });
        shares.setAttribute("aria-hidden", "true");
        sample.p.forEach((p, i) => {
          const bar = make("i", { className: i === own ? "own" : "" });
          bar.style.width = `${100 * p}%`;
          shares.append(bar);
        });
        const text = sample.p.map((p) => p.toFixed(2)).join(", ");
        const caption = make("figcaption", {}, make("b", { textContent: sample.p[own].toFixed(2) }),
          ` ${sample.name}`, shares, text);
        const alt = `${sample.name} of ${primary}, probability ${sample.p[own].toFixed(2)}`;
        const picture = sample.png === null ? [] : [make("img", { src: `data:image/png;base64,${sample.png}`, alt })];
        return make("figure", {}, ...picture, caption);
      }));
    };
    const choose = (k) => { chosen = k; told.textContent = ""; buttons(); show(); };
    const rename = () => {
      const name = input.value.trim();
      const taken = data.names.some((other, k) => other === name && data.owner[k] !== data.owner[chosen]);
      if (!name || taken) {
        told.textContent = taken ? `“${name}” is a name in another class: choose a different one.` : "A class needs a name.";
        input.value = data.names[chosen];
        return;
      }
      const joined = data.names.some((other, k) => other === name && k !== chosen);
      data.names[chosen] = name;
      told.textContent = joined ? `“${name}” is one class with the other of this name now.` : "";
      buttons();
      show();
    };
    classes.addEventListener("change", () => {
      const within = classes.value === "" ? null : Number(classes.value);
      if (within !== null && data.owner[chosen] !== within) {
        const used = data.owner.findIndex((c, k) => c === within && counts[k] > 0);
        chosen = used < 0 ? data.owner.indexOf(within) : used;
      }
      buttons();
      show();
    });
    input.addEventListener("change", rename);
    save.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([hierarchy(data)], { type: "text/csv" }));
      const link = make("a", { href: url, download: data.file });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
      told.textContent = `Saved as ${data.file}: ${data.rows.length} samples.`;
    });
    box.append(
      make("div", { className: "tools" }, make("label", {}, "Class ", classes), save),
      choices, heading,
      make("div", { className: "tools" }, make("label", {}, "Name of this class ", input)),
      told, samples,
    );
    buttons();
    show();
  };
  document.querySelectorAll("[data-browser]").forEach(start);
})();
