(() => {
	"use strict";
	// Asks for the page again and exchanges what has changed, so that whoever reads,
	// scrolls or types is not disturbed.
	const every = 2000, patience = 8000;
	const lost = document.getElementById("lost"), pause = document.getElementById("pause");
	let paused = false, heard = new Date();

	const reading = () => { const s = getSelection(); return s && !s.isCollapsed; };

	async function refresh() {
		const answer = await fetch(location.href.split("#")[0], {
			headers: {Accept: "text/html"}, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(patience),
		});
		const type = answer.headers.get("Content-Type") || "";
		if (!answer.ok || !type.startsWith("text/html")) throw new Error("not a page");
		const page = new DOMParser().parseFromString(await answer.text(), "text/html");
		document.title = page.title;
		for (const now of page.querySelectorAll("[data-live]")) {
			const was = document.getElementById(now.id);
			if (was && was.outerHTML !== now.outerHTML) was.replaceWith(document.adoptNode(now));
		}
	}

	async function turn() {
		if (!paused && !document.hidden && !reading()) {
			try {
				await refresh();
				heard = new Date();
				lost.hidden = true;
			} catch {
				if (lost.hidden) lost.textContent = "No answer since " + heard.toISOString().slice(11, 19) + " UTC: the process is gone or cannot be reached. What you see is from then.";
				lost.hidden = false;
			}
		}
		setTimeout(turn, every);
	}

	pause.hidden = false;
	pause.addEventListener("click", () => {
		paused = !paused;
		pause.setAttribute("aria-pressed", String(paused));
		pause.textContent = paused ? "Go on" : "Pause";
	});
	document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) refresh().catch(() => {}); });
	setTimeout(turn, every);
})();
